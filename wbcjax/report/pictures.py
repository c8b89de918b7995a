"""Figures made of smear images: the steps of the colour ROI, detections, noisy crops, misread originals.

Every function takes arrays, writes one PNG and returns its path. Images are RGB uint8, boxes xyxy in pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from wbcjax.report import style
from wbcjax.typing import Box, Boxes

AnyImage = UInt8[np.ndarray, "_ _ 3"]
"""One of several images that may differ in size."""

TILE = 2.35
"""Width of one picture of a grid, in inches."""


def grid(n: int, columns: int, aspect: float, caption_height: float = 0.3):
    """Figure and the flat list of its first ``n`` axes; the rest of the last row is hidden."""
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    figure, axes = style.new(rows, columns, columns * TILE, rows * (TILE * aspect + caption_height) + 0.25)
    for unused in axes.flat[n:]:
        unused.set_axis_off()
    return figure, list(axes.flat[:n])


def box_legend(figure, entries: Sequence[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, linewidth=2.4, label=label) for label, color in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


STEP_NAMES = {
    "image": "Original",
    "blurred": "Gaussian blur",
    "hsv": "HSV",
    "mask": "Colour range",
    "cleaned": "Closed and opened",
    "cell": "Region",
    "contour": "Largest contour",
    "box": "Bounding box",
}
"""Headings of the pictures of ``wbcjax.roi.steps``."""


@style.look()
def roi_steps(
    steps: Mapping[str, Shaped[np.ndarray, "..."]],
    path: Path | str,
    *,
    box: Box | None = None,
    true_boxes: Boxes | None = None,
    columns: int | None = None,
) -> Path:
    """Fig. 3: the steps of the colour ROI on one image, in order.

    Args:
      steps: name and picture of each step, as ``wbcjax.roi.steps`` gives them: RGB (h, w, 3), or a mask (h,
        w). A step that changed nothing in the mask before it is left out. HSV is shown with its channels as
        red, green and blue.
      path: the PNG to write.
      box: the final box, drawn in orange on the last picture.
      true_boxes: the annotated boxes, drawn in blue on the last picture.
      columns: pictures a row; None takes 3 or 4, whichever fills the last row better.

    Raises:
      ValueError: if there is no step to draw.
    """
    if not steps:
        raise ValueError("roi_steps needs at least one picture")
    shown: dict[str, np.ndarray] = {}
    for name, picture in steps.items():
        last = next(reversed(shown.values()), None)
        if picture.ndim == 2 and last is not None and np.array_equal(picture, last):
            continue
        shown[name] = picture
    first = next(iter(shown.values()))
    columns = columns or min((4, 3), key=lambda width: -len(shown) % width)
    figure, axes = grid(len(shown), columns, first.shape[0] / first.shape[1])
    for number, (ax, (name, picture)) in enumerate(zip(axes, shown.items(), strict=True), start=1):
        style.bare(ax, picture)
        ax.set_title(f"{number}  {STEP_NAMES.get(name, name)}", fontsize=9, pad=5)
    for true_box in true_boxes if true_boxes is not None else ():
        style.outline(axes[-1], true_box, style.BLUE)
    if box is not None:
        style.outline(axes[-1], box, style.ORANGE)
    legend = [("found", style.ORANGE)] if box is not None else []
    legend += [("annotated", style.BLUE)] if true_boxes is not None else []
    if legend:
        box_legend(figure, legend)
    return style.save(figure, path)


@style.look()
def detections(
    images: Sequence[AnyImage],
    predicted: Sequence[Box | None],
    true: Sequence[Float[np.ndarray, "_ 4"]],
    iou: Sequence[float] | Float[np.ndarray, "images"],
    path: Path | str,
    *,
    names: Sequence[str] | None = None,
    color: Literal["orange", "black"] = "orange",
    columns: int = 4,
) -> Path:
    """Fig. 7 (and 9, 10): predicted boxes in orange or black, true ones in blue, the IoU over each image.

    An image without a predicted box says so and shows the IoU it is counted with; one without a true box has
    no IoU (NaN) and says that.

    Raises:
      ValueError: if there is no image, or the lists differ in length.
    """
    lengths = [len(images), len(predicted), len(true), len(iou)]
    if min(lengths) != max(lengths) or not images:
        raise ValueError(
            "detections needs an image, and one prediction, set of true boxes and IoU for each: "
            f"got {lengths} of them"
        )
    edge = style.ORANGE if color == "orange" else style.BLACK
    figure, axes = grid(len(images), columns, max(image.shape[0] / image.shape[1] for image in images))
    for i, ax in enumerate(axes):
        style.bare(ax, images[i])
        for true_box in true[i]:
            style.outline(ax, true_box, style.BLUE)
        box = predicted[i]
        if box is not None:
            style.outline(ax, box, edge)
        if names is not None:
            ax.set_title(names[i], fontsize=8, fontweight="normal", color=style.MUTED, pad=4)
        score = "not annotated" if np.isnan(iou[i]) else f"IoU {iou[i]:.2f}"
        ax.set_title(score if box is not None else f"no box · {score}", loc="right", fontsize=8.5, pad=4)
    box_legend(figure, [("predicted", edge), ("annotated", style.BLUE)])
    return style.save(figure, path)


@style.look()
def noise_examples(
    noisy: UInt8[np.ndarray, "rows alphas height width 3"],
    alphas: Sequence[float],
    path: Path | str,
    *,
    labels: Sequence[str] | None = None,
) -> Path:
    """Fig. 11: the same crops (one a row) under each noise level (one a column).

    Args:
      noisy: the crops with noise already added, ``noisy[row, level]``.
      alphas: the noise level of each column.
      path: the PNG to write.
      labels: what each row shows, such as the class.
    """
    rows, levels, height, width = noisy.shape[:4]
    if levels != len(alphas) or rows == 0:
        raise ValueError(f"noise_examples got {rows} rows of {levels} pictures for {len(alphas)} levels")
    tile = min(1.25, 11 / levels)
    figure, axes = style.new(rows, levels, levels * tile + 0.3, rows * tile * height / width + 0.4)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for row in range(rows):
        for level, alpha in enumerate(alphas):
            style.bare(axes[row, level], noisy[row, level])
            if row == 0:
                axes[row, level].set_title(f"α = {alpha:g}", fontsize=8.5, fontweight="normal", pad=4)
        if labels is not None:
            axes[row, 0].set_ylabel(labels[row], fontsize=8.5)
    return style.save(figure, path, dpi=110)  # noise does not compress: half the bytes of the usual 160


@style.look()
def misread_originals(
    images: Sequence[AnyImage],
    names: Sequence[str],
    true: Sequence[str],
    predicted: Sequence[str],
    share_wrong: Sequence[float] | Float[np.ndarray, "n"],
    path: Path | str,
    *,
    copies: Sequence[int] | Int[np.ndarray, "n"] | None = None,
    columns: int = 4,
) -> Path:
    """The originals a model misreads: image, true and predicted class, and the share of its copies that is
    wrong.

    Args:
      images: one picture an original; they are drawn in the given order.
      names: the original's name, as ``BloodImage_00110``.
      true: its class.
      predicted: the class most of its wrong copies are given.
      share_wrong: fraction of its copies read wrong, 0 to 1; drawn as a bar too.
      path: the PNG to write; without any image it says that nothing was misread.
      copies: how many copies there are.
      columns: pictures a row.
    """
    if not images:
        figure, axes = style.new(1, 1, 6, 1)
        style.bare(axes[0, 0])
        axes[0, 0].text(0.5, 0.5, "No original is misread.", ha="center", va="center", color=style.MUTED)
        return style.save(figure, path)
    figure, axes = grid(len(images), columns, max(image.shape[0] / image.shape[1] for image in images), 0.62)
    for i, ax in enumerate(axes):
        style.bare(ax, images[i])
        ax.set_title(f"{true[i]} → {predicted[i]}", fontsize=8.5, pad=16)
        ax.annotate(
            names[i],
            (0, 1),
            xytext=(0, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7.5,
            color=style.MUTED,
            va="bottom",
        )
        for share, color in ((1.0, style.GRID), (float(share_wrong[i]), style.ORANGE)):
            ax.plot(
                [0, share],
                [-0.035, -0.035],
                color=color,
                linewidth=3,
                solid_capstyle="butt",
                clip_on=False,
                transform=ax.transAxes,
            )
        count = f" of {copies[i]} copies" if copies is not None else " of its copies"
        ax.annotate(
            f"{100 * float(share_wrong[i]):.0f} %{count} wrong",
            (0, 0),
            xytext=(0, -9),
            fontsize=7.5,
            xycoords="axes fraction",
            textcoords="offset points",
            va="top",
            color=style.INK,
        )
    return style.save(figure, path)
