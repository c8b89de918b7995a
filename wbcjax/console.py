"""Where progress is shown: standard error, of one process alone."""

from rich.console import Console

_silent = False


def silence() -> None:
    """Show no progress in this process: another one does."""
    global _silent
    _silent = True


def progress_console() -> Console:
    """A console for progress bars and headings; errors do not go through it."""
    return Console(stderr=True, quiet=_silent)
