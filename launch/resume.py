"""A command that a cluster may stop and start again: it goes on from its checkpoint.

    python launch/resume.py -- wbcjax train --data.root data --workdir runs/mine
    python launch/resume.py --dry-run -- wbcjax train --workdir runs/mine         # what it would run

Adds ``--resume`` where the folder of ``--workdir`` holds a checkpoint already. ``wbcjax reproduce`` and the scripts in
``experiments/`` need no such option: they go on by themselves. Passes on SIGTERM, on which training saves and ends; the
exit status is then 143 instead of 0, so that SLURM and Kubernetes see that there is more to do.
"""

import argparse
import shlex
import signal
import subprocess
import sys
from pathlib import Path

STOPPED = 128 + signal.SIGTERM
"""Exit status after SIGTERM, by the shell's convention."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit status, or ``STOPPED``."""
    parser = argparse.ArgumentParser(prog="launch/resume.py", description="A command that goes on from its checkpoint.")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    parser.add_argument("command", nargs="+", help="after --: the command")
    options = parser.parse_args(argv)
    command = with_resume(options.command)
    if options.dry_run:
        print(shlex.join(command))
        return 0
    process, stopped = None, False

    def pass_on(signum: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        if process is not None:
            process.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    process = subprocess.Popen(command)
    if stopped:
        process.terminate()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the command decides
    code = process.wait()
    if code:
        return code if code > 0 else 128 - code
    return STOPPED if stopped else 0


def with_resume(command: list[str]) -> list[str]:
    """The command, with ``--resume`` if it names a ``--workdir`` with a checkpoint, of its first stage if need be."""
    folder = None
    for word, following in zip(command, [*command[1:], None], strict=True):
        if word.startswith("--workdir="):
            folder = word.partition("=")[2]
        elif word == "--workdir":
            folder = following
    if folder is None or "--resume" in command:
        return command
    stages = (Path(folder), Path(folder) / "first_stage")
    # Orbax gives what it has not finished writing a longer name.
    saved = any(entry.name.isdecimal() for stage in stages for entry in (stage / "checkpoints").glob("*"))
    return [*command, "--resume"] if saved else command


if __name__ == "__main__":
    sys.exit(main())
