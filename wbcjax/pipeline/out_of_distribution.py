"""Whether a classifier notices images that show none of its classes: four scores, their ROC, and how far they go.

Fitted on TRAIN alone: class means and covariance of the features for the Mahalanobis distance, and the features
themselves for the nearest neighbours. No choice is made on the foreign images: every score is reported on every kind.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wbcjax import config as cfg
from wbcjax.data.kaggle import originals
from wbcjax.evaluation import ood
from wbcjax.evaluation.results import row, write_results
from wbcjax.evaluation.uncertainty import bootstrap_images
from wbcjax.models import Classifier
from wbcjax.pipeline.foreign_images import Foreign, check_crops, foreign_sets
from wbcjax.pipeline.inputs import Inputs, data_root, inputs_of
from wbcjax.pipeline.rows import Rows
from wbcjax.pipeline.runs import load_run
from wbcjax.pipeline.studies import Splits, ensure_trained, proven_fingerprint, run_labels
from wbcjax.pipeline.workdir import portable
from wbcjax.training import merge, split
from wbcjax.training.classifier import VIEWS, view
from wbcjax.typing import CLASS_NAMES, Float, Images

NEIGHBOURS = 50
"""Rank of the training feature whose distance counts, as published for CIFAR (Sun et al. 2022)."""
BATCH = 128
SMEARS, FILES = "the originals of TEST", "the files of TEST"
"""What foreign images are told from."""
GRID = (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""False positive rates of the curves in the results."""

NOTES = (
    "Foreign crops come from 640×480 smears of which no copy was trained on, and are made as the classifier's own. "
    "They are told from crops of TEST's originals, made in the same way; told from TEST's files, which are turned, "
    "sheared and filled with black, the fill makes a difference that is no merit of a score.",
    "Scores are fitted on TRAIN alone, with settings fixed beforehand. FPR: share of the foreign images accepted at "
    "the threshold that accepts 95 % of the others. Intervals are bootstrapped over smears.",
    "The other stain is simulated: the optical density of red, green and blue times 1.6, 1.0 and 0.6. Three basophils "
    "are too few to tell scores apart.",
)


def out_of_distribution_study(
    config: cfg.ClassifierConfig, *, experiment: str, runs: Path, results: Path, notes: Sequence[str] = ()
) -> tuple[Rows, dict[str, Foreign]]:
    """Judge the network of ``config``, trained on TRAIN, on images that are none of its classes.

    Returns:
      The rows, and the foreign images.

    Raises:
      DataError: as ``foreign_sets`` and ``check_crops``.
    """
    started = time.perf_counter()
    check_crops(config)
    splits = Splits()
    fingerprint = proven_fingerprint(config.data)
    model, _ = load_run(ensure_trained(config, runs, splits))
    train, files = splits.get(config, "TRAIN"), splits.get(config, "TEST")
    smears = inputs_of(originals(data_root(config.data), "TEST"), config)
    foreign = foreign_sets(config, smears)
    score = Scores(model, train, config.test_views)
    foreign_scores = {kind: score(found.images) for kind, found in foreign.items()}
    common = {"model": config.model.name, "input": config.input, "split": "TEST", **run_labels(config, model)}
    rows: Rows = [row(**common, metric="images", foreign=kind, value=len(found.images))
                  for kind, found in foreign.items()]
    for against, inputs in ((SMEARS, smears), (FILES, files)):
        own = score(inputs.images)
        for kind, found in foreign.items():
            for name, values in foreign_scores[kind].items():
                rows += separation_rows(own[name], inputs, values, found.sources, curve=against == SMEARS,
                                        foreign=kind, score=name, against=against, **common)
    write_results(results / f"{experiment}.json", experiment=experiment, config=portable(config), rows=rows,
                  seeds=config.train.seed, data_fingerprint=fingerprint, wall_time=time.perf_counter() - started,
                  notes=(*NOTES, *notes))
    return rows, foreign


class Scores:
    """Every score of a model, by its name."""

    def __init__(self, model: Classifier, train: Inputs, views: str):
        """Fit those that need it to the features of the training images; ``views`` is a name of ``VIEWS``."""
        self._model, self._views = model, views
        _, self._features = logits_and_features(model, train.images, views)
        self._gaussians = ood.fit_gaussians(self._features, train.labels)

    def __call__(self, images: Images) -> Mapping[str, Float[np.ndarray, "n"]]:
        """Higher the further out an image lies."""
        logits, features = logits_and_features(self._model, images, self._views)
        neighbours = min(NEIGHBOURS, len(self._features))
        return {
            "max softmax": ood.max_softmax(logits),
            "energy": ood.energy(logits),
            "Mahalanobis": ood.mahalanobis(features, self._gaussians),
            "nearest neighbours": ood.nearest_neighbours(features, self._features, neighbours),
        }


def separation_rows(
    own: Float[np.ndarray, "n"],
    inputs: Inputs,
    values: Float[np.ndarray, "m"],
    sources: Sequence[str],
    *,
    curve: bool,
    **common,
) -> Rows:
    """AUROC and FPR with intervals over smears, and the curve where asked for.

    A smear that gives images to both sides is drawn as one.
    """
    scores = np.concatenate([own, values])
    out = np.arange(len(scores)) >= len(own)
    strata = np.concatenate([inputs.labels, np.full(len(values), len(CLASS_NAMES))])
    figure = lambda statistic: bootstrap_images(  # noqa: E731
        lambda weights: statistic(scores, out, weights), (*inputs.sources, *sources), strata)._asdict()
    rows = [row(**common, metric="auroc", **figure(ood.auroc)),
            row(**common, metric="fpr95", **figure(ood.false_positive_rate))]
    if curve:
        false, true = ood.roc(scores, out)
        rows += [row(**common, metric="true_positive_rate", false_positive_rate=rate, value=true[false <= rate].max())
                 for rate in GRID]
    return rows


def logits_and_features(
    model: Classifier, images: Images, views: str = "one"
) -> tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n f"]]:
    """Logits and the feature vector before the last layer, in float32, of uint8 images; each the mean over ``views``, a
    name of ``VIEWS``."""
    graphdef, params, stats = split(model)
    size = min(BATCH, len(images))
    found = []
    for start in range(0, len(images), size):
        batch = np.asarray(images[start : start + size])
        padded = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), np.uint8)])
        found.append([np.asarray(part)[: len(batch)] for part in _forward(graphdef, views, params, stats, padded)])
    logits, features = zip(*found, strict=True)
    return np.concatenate(logits), np.concatenate(features)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    graphdef: nnx.GraphDef, views: str, params: dict, stats: dict, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    model = merge(graphdef, params, stats, training=False)
    images = images.astype(jnp.float32) / 255
    features = sum(model.forward_features(view(images, *how)) for how in VIEWS[views]) / len(VIEWS[views])
    # The last layer is linear: of the mean features it makes the mean logits.
    return model.classify(features), features.astype(jnp.float32)
