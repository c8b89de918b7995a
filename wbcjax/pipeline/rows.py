"""From what a run says of a split to the rows of a results file."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from wbcjax import config as cfg
from wbcjax.data.overlaps import shared_cells
from wbcjax.data.sets import ClassificationSet
from wbcjax.evaluation import classification as metrics
from wbcjax.evaluation.noise import noise_sweep
from wbcjax.evaluation.results import PAPER, PAPER_NOISE, row
from wbcjax.evaluation.uncertainty import bootstrap
from wbcjax.pipeline.inputs import Inputs
from wbcjax.pipeline.runs import Predictions
from wbcjax.training import data_mesh, merge, split
from wbcjax.training.classifier import mean_over_views
from wbcjax.typing import CLASS_NAMES, Int

Rows = list[dict]
UNSHARED = "TEST, cells not in TRAIN"
"""The split without the originals whose very cell is also in TRAIN, photographed a second time."""


def classification_rows(predictions: Predictions, *, model: str, input: str, split: str, **extra) -> Rows:
    """Every classification metric of one run on one split, with intervals over originals within class."""
    num_classes = len(CLASS_NAMES)
    labels, classes = predictions.labels, predictions.classes
    names, counts = metrics.confusion_by_source(labels, classes, predictions.sources, num_classes)
    total = counts.sum(axis=0)
    common = {"model": model, "input": input, "split": split, **extra}
    paper = PAPER.get((model, input, "accuracy")) if split == "TEST" else None
    rows = [
        *accuracy_rows(counts, paper=paper, **common),
        row(**common, metric="ece", value=calibration(predictions)),
        row(**common, metric="missed", value=int(predictions.missed.sum())),
    ]
    for k, name in enumerate(CLASS_NAMES):
        for metric in ("precision", "recall", "f1"):
            rows.append(row(**common, metric=metric, class_name=name, value=getattr(metrics, metric)(total)[k]))
    return rows + confusion_rows(total, **common) + source_rows(names, counts, **common)


def confusion_rows(total: Int[np.ndarray, "c c"], **common) -> Rows:
    """How many images of each class are predicted as each."""
    return [row(**common, metric="confusion", true=true, predicted=predicted, value=total[i, j])
            for i, true in enumerate(CLASS_NAMES) for j, predicted in enumerate(CLASS_NAMES)]


def source_rows(names: Sequence[str], counts: Int[np.ndarray, "sources c c"], **common) -> Rows:
    """The share of each original's images that is read right, and the class that most of the others are read as."""
    rows = []
    for name, matrix in zip(names, counts, strict=True):
        true = int(matrix.sum(axis=1).argmax())
        wrong = np.where(np.arange(len(CLASS_NAMES)) == true, 0, matrix[true])
        rows.append(row(**common, metric="source_accuracy", source=name, class_name=CLASS_NAMES[true],
                        read_as=CLASS_NAMES[int(wrong.argmax())] if wrong.any() else None,
                        value=metrics.accuracy(matrix)))
    return rows


def accuracy_rows(counts: Int[np.ndarray, "sources c c"], *, paper: float | None = None, **common) -> Rows:
    """Accuracy and balanced accuracy, with intervals, from one confusion matrix an original."""
    return [
        row(**common, metric="accuracy", paper=paper, **bootstrap(counts, metrics.accuracy)._asdict()),
        row(**common, metric="balanced_accuracy", **bootstrap(counts, metrics.balanced_accuracy)._asdict()),
    ]


def unshared_rows(predictions: Predictions, train: ClassificationSet, **common) -> Rows:
    """``accuracy_rows`` on the originals whose cell TRAIN does not show; none if it shows none of them."""
    names, counts = metrics.confusion_by_source(
        predictions.labels, predictions.classes, predictions.sources, len(CLASS_NAMES)
    )
    seen = {name for pair in shared_cells(train.sources, names) for name in (pair.first, pair.second)}
    kept = np.array([name not in seen for name in names])
    return [] if kept.all() else accuracy_rows(counts[kept], split=UNSHARED, **common)


def calibration(predictions: Predictions) -> float:
    """Expected calibration error of the softmax of the logits."""
    probabilities = np.asarray(jax.nn.softmax(predictions.logits, axis=-1))
    return float(metrics.expected_calibration_error(probabilities, predictions.labels))


def noise_rows(predict, test: Inputs, noise: cfg.NoiseConfig, *, model: str, input: str, roi: str | None) -> Rows:
    """One accuracy and one retention row for each α, over all seeds; intervals over originals."""
    mesh = data_mesh()
    predictions = noise_sweep(
        predict, np.asarray(test.images), alphas=noise.alphas, seeds=noise.seeds, key=jax.random.key(0),
        batch_size=64 * mesh.size, sharding=NamedSharding(mesh, PartitionSpec("data")),
    )
    clean = None
    rows = []
    for alpha, by_seed in zip(noise.alphas, predictions, strict=True):
        counts = noise_counts(test, by_seed)
        interval = bootstrap(counts, metrics.accuracy)
        clean = interval.value if alpha == 0 else clean
        common = {"model": model, "input": input, "roi": roi, "split": "TEST", "alpha": alpha}
        paper = PAPER_NOISE.get(alpha) if (model, input) == ("custom2", "roi") else None
        rows.append(row(**common, metric="accuracy", paper=paper, **interval._asdict()))
        if clean:
            rows.append(row(**common, metric="retention", value=interval.value / clean))
    return rows


def noise_counts(test: Inputs, by_seed: Int[np.ndarray, "seeds n"]) -> Int[np.ndarray, "sources c c"]:
    """Confusion matrices by original, summed over noise seeds."""
    return sum(
        metrics.confusion_by_source(test.labels, classes, test.sources, len(CLASS_NAMES))[1] for classes in by_seed
    )


def noise_predictor(model: nnx.Module, views: str = "one") -> jax.tree_util.Partial:
    """Images in [0, 1] to logits, or their mean over test-time views; the weights are arguments, so runs of one
    architecture compile to one program."""
    graphdef, params, stats = split(model)
    return jax.tree_util.Partial(functools.partial(_logits, graphdef, views), params, stats)


def _logits(graphdef: nnx.GraphDef, views: str, params: dict, stats: dict, images: jax.Array) -> jax.Array:
    return mean_over_views(merge(graphdef, params, stats, training=False), images, views)
