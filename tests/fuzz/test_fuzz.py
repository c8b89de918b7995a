"""The program beside this file, in short."""

import subprocess
import sys
from pathlib import Path


def test_a_few_thousand_damaged_files_give_a_value_or_an_error_that_names_them(tmp_path):
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", "--cases", "4200", "--keep", tmp_path / "kept"],
                          cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 16  # a line for each of 14 readers
