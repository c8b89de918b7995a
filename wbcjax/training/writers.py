"""Where a run's numbers go: JSON lines always, the console for people, TensorBoard if asked for."""

import json
import math
import sys
from pathlib import Path
from typing import Any, TextIO

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class MetricsWriter:
    """Appends one JSON object a line to ``metrics.jsonl``; on resume, lines past the restored step are dropped."""

    def __init__(self, directory: Path, *, resume_step: int = 0, tensorboard: bool = False):
        self._active = jax.process_index() == 0
        self._file: TextIO | None = None
        self._tensorboard = None
        if not self._active:
            return
        path = directory / "metrics.jsonl"
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= resume_step] \
            if resume_step and path.exists() else []
        path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a")
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(directory))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers of a step."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._tensorboard:
            for name, value in values.items():
                if isinstance(value, float) and math.isfinite(value):
                    self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        if self._file:
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()


class ConsoleProgress:
    """A progress bar with metrics, images/s and time left on a terminal; one line an epoch elsewhere."""

    def __init__(self, title: str, total: int, start: int = 0):
        self._console = Console(file=sys.stderr)
        self._title = title
        self._active = jax.process_index() == 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._active and self._console.is_terminal),
        )
        self._task = self._bar.add_task(title, total=total, completed=start, text="compiling")
        self._bar.start()

    def update(self, step: int, text: str) -> None:
        self._bar.update(self._task, completed=step, text=text)

    def line(self, text: str) -> None:
        """One line that stays."""
        if self._active and not self._console.is_terminal:
            self._console.print(f"{self._title}: {text}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()
