"""What a table is made of, and how result rows become its cells: labels, formats, the choice among rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wbcjax.typing import CLASS_NAMES

Row = Mapping[str, Any]

MODEL_NAMES = {
    "lenet": "LeNet",
    "custom1": "Custom CNN 1",
    "custom2": "Custom CNN 2",
    "knn": "Features, k nearest neighbours",
    "svm": "Features, support vector machine",
    "mlp": "Features, multilayer network",
    "double_conv": "Double convolution layers",
    "capsule": "Capsule network",
    "vgg16": "VGG16",
    "resnet50": "ResNet50",
    "inception_v3": "InceptionV3",
    "color": "Colour ROI",
    "mask_rcnn_vgg16": "Mask R-CNN, VGG16",
    "mask_rcnn_resnet50": "Mask R-CNN, ResNet50",
    "mask_rcnn_compact": "Mask R-CNN, compact",
}
INPUT_NAMES = {
    "whole": "Whole images",
    "roi": "ROI crops",
    "color": "Colour ROI",
    "mask_rcnn": "Mask R-CNN ROI",
    "oracle": "True boxes",
}
DASH = "–"
COUNT = "{:,.0f}".format
"""How a whole number is written."""

_COMMON = frozenset((
    *("model", "input", "split", "metric", "value", "low", "high", "paper", "experiment", "seed", "roi"),
    *("variant", "alpha", "class_name", "true", "predicted", "source", "unit", "kind", "read_as"),
    *("corruption", "level", "images"),
))


@dataclass(frozen=True)
class Cell:
    """One entry: text, its 95 % interval or "", and what it is; ours at or above the paper's is ``good``."""

    text: str
    interval: str = ""
    kind: Literal["", "label", "paper", "good", "strong"] = ""


@dataclass(frozen=True)
class Column:
    """A column's heading and, where several columns belong together, the heading above them."""

    heading: str
    group: str = ""


@dataclass(frozen=True)
class Table:
    """A finished table; ``section`` is its place in the report, ``experiments`` the results it shows."""

    key: str
    title: str
    section: Literal["data", "roi", "classification", "confusion", "noise", "uncertainty", "misread", "runs"]
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()


def setting(row: Row) -> str:
    """What tells a row's run apart beside model, input and split: its variant and further keys, as text."""
    extra = [str(row["variant"])] if "variant" in row else []
    extra += [
        str(row[key]) if isinstance(row[key], str) else f"{key} {row[key]}"
        for key in row
        if key not in _COMMON
    ]
    return ", ".join(extra)


def label(row: Row) -> str:
    """Name of the model of a row with its setting, such as "Custom CNN 2" or "VGG16 (frozen)"."""
    name, extra = MODEL_NAMES.get(row["model"], row["model"]), setting(row)
    return f"{name} ({extra})" if extra else name


def input_kind(row: Row) -> str:
    """``whole``, or where crops come from: ``color``, ``mask_rcnn``, ``oracle``; ``roi`` if not said."""
    return "whole" if row["input"] == "whole" else str(row.get("roi", "roi"))


def percent(value: float) -> str:
    """A fraction in per cent with one digit."""
    return f"{100 * value:.1f}"


def combine(rows: Sequence[Row], *, prefer: str = "") -> dict[str, float] | None:
    """One figure from the rows that state it: value, and low, high and paper where known; None of no rows.

    Rows of one experiment are used, the first by name that starts with ``prefer`` if there is one. A row over
    all seeds (without ``seed``) wins over those of single seeds, of which value and interval are averaged.
    """
    if not rows:
        return None
    experiment = min(
        (row["experiment"] for row in rows), key=lambda name: (not name.startswith(prefer), name)
    )
    rows = [row for row in rows if row["experiment"] == experiment]
    rows = [row for row in rows if "seed" not in row] or list(rows)
    return {
        key: float(np.mean([row[key] for row in rows]))
        for key in ("value", "low", "high", "paper")
        if all(key in row for row in rows)
    }


def cell(
    figure: Mapping[str, float] | None, form: Callable[[float], str] = percent, mark: bool = True
) -> Cell:
    """Our value as text with its interval; with ``mark``, ``good`` where it is at least the paper's."""
    if figure is None:
        return Cell(DASH)
    interval = f"{form(figure['low'])}–{form(figure['high'])}" if {"low", "high"} <= figure.keys() else ""
    good = mark and figure["value"] >= figure.get("paper", np.inf)
    return Cell(form(figure["value"]), interval, "good" if good else "")


def paper_cell(figures: Iterable[Mapping[str, float] | None], form: Callable[[float], str] = percent) -> Cell:
    """The paper's value, from the first figure that knows it."""
    known = [figure["paper"] for figure in figures if figure and "paper" in figure]
    return Cell(form(known[0]) if known else DASH, kind="paper")


def unique(items: Iterable[Any]) -> list[Any]:
    """The different items in the order of their first appearance."""
    return list(dict.fromkeys(items))


def in_model_order(rows: Iterable[Row]) -> list[Row]:
    """Rows sorted by model as in ``MODEL_NAMES``, otherwise in their order."""
    order = list(MODEL_NAMES)
    return sorted(rows, key=lambda row: order.index(row["model"]) if row["model"] in order else len(order))


def in_class_order(names: Iterable[str]) -> list[str]:
    """The different class names: the paper's four in label order, then others by name."""
    known = set(names)
    return [name for name in CLASS_NAMES if name in known] + sorted(known - set(CLASS_NAMES))


def experiments_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """The experiments that the rows come from."""
    return tuple(unique(row["experiment"] for row in rows))


def in_input_order(rows: Iterable[Row]) -> list[str]:
    """The different input kinds of the rows, as in ``INPUT_NAMES``."""
    kinds = set(map(input_kind, rows))
    return [kind for kind in INPUT_NAMES if kind in kinds] + sorted(kinds - INPUT_NAMES.keys())
