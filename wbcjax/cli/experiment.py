"""What the scripts in ``experiments/`` share: their options."""

from dataclasses import dataclass, field
from pathlib import Path

from wbcjax import config as cfg


@dataclass
class Experiment:
    """Options of an experiment on the real data."""

    data: cfg.DataConfig = field(default_factory=cfg.DataConfig)
    runs: Path = Path("runs/reproduce-paper/runs")
    """Folder of the training runs, shared with ``wbcjax reproduce --preset paper``; finished ones are reused."""
    results: Path = Path("experiments/results")
    """Folder of the results file."""
    seeds: tuple[int, ...] = (0,)
    """One run a model and seed."""

    def run(self) -> int:
        """Run the study; an interruption is saved, and no error."""
        import sys

        from wbcjax.pipeline.compilation import use_compilation_cache
        from wbcjax.pipeline.studies import Interrupted

        use_compilation_cache(self.data)
        try:
            self.study()
        except Interrupted as stopped:
            print(f"{stopped}", file=sys.stderr)
        return 0

    def study(self) -> None:
        """The experiment itself."""
        raise NotImplementedError(f"{type(self).__name__} defines no study")
