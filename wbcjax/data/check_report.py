"""What a check of a data root found, and how it is printed."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Anomaly:
    """One thing that is not as it should be."""

    kind: str
    """"damaged file", "duplicate", …: anomalies of one kind are printed together."""
    message: str
    """Names the file."""


@dataclass
class Report:
    """What ``check`` found."""

    root: Path
    files: dict[str, dict[str, int]] = field(default_factory=dict)
    """Image files by split and class."""
    originals: dict[str, dict[str, int]] = field(default_factory=dict)
    """Originals behind them, by split and class."""
    annotated: int = 0
    """Annotated images."""
    boxes: dict[str, int] = field(default_factory=dict)
    """Boxes with area, by class."""
    dropped: int = 0
    """Boxes without area in their image."""
    wbc_per_image: dict[int, int] = field(default_factory=dict)
    """Annotated images by their number of WBC boxes."""
    wbc_at_border: int = 0
    """WBC boxes that touch the border of their image."""
    anomalies: list[Anomaly] = field(default_factory=list)

    def add(self, kind: str, messages: Iterable[str]) -> None:
        """Note anomalies of one kind."""
        self.anomalies += [Anomaly(kind, message) for message in messages]

    def text(self) -> str:
        """The report as printed."""
        lines = [f"Data root: {self.root}"]
        if self.files:
            lines += ["", "Image files (Table 1)", *_table(self.files)]
            lines += ["", "Originals they were made from", *_table(self.originals)]
        if self.annotated:
            counts = ", ".join(f"{count:,} {name}" for name, count in self.boxes.items())
            images = ", ".join(f"{n} with {k or 'no'} WBC" for k, n in sorted(self.wbc_per_image.items()))
            lines += ["", f"Annotated images: {self.annotated:,} ({images})"]
            lines += [f"Boxes: {counts}, {self.dropped} without area; {self.wbc_at_border} WBC boxes touch the border"]
        kinds: dict[str, list[str]] = defaultdict(list)
        for anomaly in self.anomalies:
            kinds[anomaly.kind].append(anomaly.message)
        lines += ["", f"Anomalies: {len(self.anomalies)}"]
        for kind, messages in kinds.items():
            lines += [f"  {kind} ({len(messages)})", *(f"    {message}" for message in messages)]
        return "\n".join(lines)


def _table(counts: dict[str, dict[str, int]]) -> list[str]:
    """Rows of splits and columns of classes, with totals."""
    classes = list(dict.fromkeys(name for row in counts.values() for name in row))
    rows = [["", *classes, "all"]]
    for split, row in counts.items():
        rows.append([split, *(f"{row.get(name, 0):,}" for name in classes), f"{sum(row.values()):,}"])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        f"  {split:<{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, others, strict=True))
        for split, *cells in rows
    ]
