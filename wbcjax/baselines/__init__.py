"""What stood before convolutional networks: hand-made features of the segmented cell, and classifiers on them.

Needs scikit-image and scikit-learn, ``pip install "wbcjax[literature]"``, which are imported only when used.
"""

import importlib
from types import ModuleType

from wbcjax.errors import ConfigError


def require(module: str) -> ModuleType:
    """A module of the ``literature`` extra.

    Raises:
      ConfigError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module.split('.')[0]} is not installed ({error}); hand-made features and their "
                          'classifiers need it: pip install "wbcjax[literature]"') from error
