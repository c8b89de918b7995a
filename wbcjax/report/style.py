"""One look for every figure: colours, type, layout, and how a figure becomes a PNG file.

Figures are drawn with ``matplotlib.figure.Figure``, never pyplot, so no window system is needed and nothing
is kept open. The ground is always white: the HTML report puts it on a white card in dark mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcjax.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORANGE = "#f57c00"
"""Predicted boxes, and whatever is wrong."""
BLUE = "#1a56db"
"""True boxes."""
BLACK = "#111827"
"""Predicted boxes in the paper's second style."""
INK = "#1f2937"
MUTED = "#6b7280"
GRID = "#e5e7eb"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa3377", "#b8860b", "#56b4e9")
"""After Okabe and Ito, darkened where thin lines need it: told apart by colour-blind readers too."""
MARKERS = ("o", "s", "D", "^", "v", "P")

DPI = 160
RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9ca3af",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def look() -> Iterator[None]:
    """Context, or decorator as ``@look()``, under which matplotlib draws in this style."""
    import matplotlib

    with matplotlib.rc_context(RC):
        yield


def new(
    rows: int, columns: int, width: float | int, height: float | int, **subplots: Any
) -> "tuple[Figure, np.ndarray]":
    """A figure of ``width`` × ``height`` inches and its (rows, columns) array of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, axes


def bare(axes: "Axes", image: np.ndarray | None = None) -> None:
    """Turn axes into a plain frame, showing ``image`` (RGB, or a grey or boolean mask) where one is given."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if image is not None:
        grey = {"cmap": "gray", "vmin": 0, "vmax": max(1, int(image.max()))} if image.ndim == 2 else {}
        axes.imshow(image, interpolation="antialiased", **grey)
        axes.set_xlim(-0.5, image.shape[1] - 0.5)
        axes.set_ylim(image.shape[0] - 0.5, -0.5)


def outline(axes: "Axes", box: np.ndarray, color: str, width: float = 1.7) -> None:
    """Draw one xyxy box in continuous pixels on a picture, with a thin white casing against dark cells.

    imshow puts the centre of the first pixel at 0, the package at 0.5: hence the half pixel.
    """
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = (float(v) - 0.5 for v in box)
    for edge, line in (("white", width + 1.2), (color, width)):
        axes.add_patch(
            Rectangle(
                (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=edge, linewidth=line, joinstyle="miter"
            )
        )


def save(figure: "Figure", path: Path | str, *, dpi: int = DPI) -> Path:
    """Write the figure as PNG, whole or not at all, and return its path. Missing folders are made.

    The file holds no date or version, so the same figure gives the same bytes.
    """
    path = Path(path)
    with replacing(path) as temporary:
        figure.savefig(
            temporary,
            format="png",
            dpi=dpi,
            metadata={"Software": None},
            bbox_inches="tight",
            pad_inches=0.08,
        )
    return path
