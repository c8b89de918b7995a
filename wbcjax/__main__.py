"""``python -m wbcjax``."""

import sys

from wbcjax.cli import main

sys.exit(main())
