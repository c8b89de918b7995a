"""Where a run's numbers go: JSON lines always, the console for people, TensorBoard if asked for."""

import json
import math
import os
import sys
import time
from datetime import timedelta
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
        kept = _lines_until(path, resume_step) if resume_step and path.exists() else []
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        temporary.write_text("".join(line + "\n" for line in kept))
        os.replace(temporary, path)
        self._file = path.open("a")
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(directory), purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers of a step; of one of several runs, where they hold its ``seed``."""
        if not self._active:
            return
        run = f"seed{values['seed']}/" if "seed" in values else ""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._tensorboard:
            for name, value in values.items():
                if isinstance(value, float) and math.isfinite(value):
                    self._tensorboard.add_scalar(run + name, value, step)

    def close(self) -> None:
        """Close the files."""
        if self._file:
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """Lines of up to ``step``, without one that a killed process left unfinished."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line)
    return kept


class ConsoleProgress:
    """A progress bar with loss, images/s and time left on a terminal; one line an epoch elsewhere. On process 0."""

    def __init__(self, title: str, total: int, start: int = 0):
        self._console = Console(file=sys.stderr)
        self._title = title
        self._active = jax.process_index() == 0
        self._start, self._total, self._since = start, total, time.perf_counter()
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

    def update(self, step: int, loss: float, rates: dict[str, float]) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, text="  ".join([f"loss {loss:.4f}", *_in_words(rates)]))

    def line(self, heading: str, step: int, values: dict[str, float], rates: dict[str, float]) -> None:
        """Without a terminal: one line with the numbers, the speed and the time left."""
        seconds = (time.perf_counter() - self._since) * (self._total - step) / max(step - self._start, 1)
        left = [f"{timedelta(seconds=round(seconds))} left"] if step < self._total else []
        if not self._console.is_terminal:
            self.note("  ".join([heading, *(f"{name} {value:.4g}" for name, value in values.items()),
                                 *_in_words(rates), *left]))

    def speed(self, rates: dict[str, float]) -> None:
        """One line with every number of the speed, a dash for what is not known; none where no step was timed."""
        if rates:
            self.note("  ".join(_in_words({name: rates.get(name) for name in _WORDS})))

    def note(self, text: str) -> None:
        """One line that stays."""
        if self._active:
            self._console.print(f"{self._title}: {text}", highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()


_WORDS = {
    "images_per_second": ("{} images/s", lambda rate: f"{rate:,.0f}"),
    "flops_per_second": ("{} GFLOP/s", lambda rate: f"{rate / 1e9:,.0f}" if rate >= 1e11 else f"{rate / 1e9:.3g}"),
    "peak_share": ("{} of peak", lambda share: f"{share:.0%}"),
    "input_wait": ("{} input wait", lambda share: f"{share:.0%}"),
    "compile_seconds": ("compiled in {} s", lambda seconds: f"{seconds:.1f}"),
}
"""How the numbers of ``Throughput`` are told to people."""


def _in_words(rates: dict[str, float | None]) -> list[str]:
    """Those of ``_WORDS`` that there are; None is told as a dash."""
    return [text.format("–" if rates[name] is None else number(rates[name]))
            for name, (text, number) in _WORDS.items() if name in rates]
