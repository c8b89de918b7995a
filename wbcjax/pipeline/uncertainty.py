"""How well a classifier knows what it does not know: calibration, prediction sets, abstention.

Nothing is fitted on TEST. Five networks, each trained on four fifths of TRAIN, judge the fifth that they did not see,
cut by original: these judgements fit the temperature and the thresholds of the prediction sets. They are applied to the
one network that was trained on all of TRAIN, which has seen a quarter more cells than the networks that they were
fitted on; and to the five networks together, a deep ensemble (Lakshminarayanan, Pritzel and Blundell 2017) whose
probabilities are the mean of the members'. Each member is divided by the temperature first: for the mean itself there
is no image of TRAIN that all five left out. A mean of calibrated members is less sure than it might be (Rahaman and
Thiery 2021).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.errors import ConfigError
from wbcjax.evaluation import calibration as cal
from wbcjax.evaluation import conformal, selective
from wbcjax.evaluation.classification import accuracy, calibration_error, confusion_by_source
from wbcjax.evaluation.results import row, write_results
from wbcjax.evaluation.uncertainty import bootstrap, bootstrap_images, bootstrap_mean, groups_of
from wbcjax.pipeline.inputs import train_and_validation
from wbcjax.pipeline.rows import Rows
from wbcjax.pipeline.runs import Predictions, load_run, pooled, predict_split
from wbcjax.pipeline.studies import Splits, ensure_trained, proven_fingerprint, run_labels
from wbcjax.pipeline.workdir import portable
from wbcjax.typing import CLASS_NAMES, Bool, Float, Int

OUT_OF_FOLD = "TRAIN, each by the fold without its original"
ONE, FIVE = "one network", "ensemble of the folds"
RAW, SCALED = "none", "temperature"
ALPHA = 0.05
BINS = 15
RELIABILITY_BINS = 10
KEPT = tuple(np.arange(0.5, 1.001, 0.05).round(2).tolist())
"""Shares of the images that are kept, the most certain first."""
PENALTY = 0.1
"""Of RAPS, for each class beyond the first; chosen beforehand."""
SCORES = {
    "LAC": lambda probabilities, cut: conformal.least_ambiguous(probabilities),
    "APS": lambda probabilities, cut: conformal.adaptive(probabilities, cut=cut),
    "RAPS": lambda probabilities, cut: conformal.adaptive(probabilities, PENALTY, cut=cut),
}
"""Of probabilities and a random number an image."""
COPY, ALL_COPIES, BY_CLASS = "a copy", "all copies at once", "a copy, within each class"
"""What the prediction sets promise to cover of a new original with 95 %."""

NOTES = (
    "Temperature and thresholds come from the folds of TRAIN, never from TEST. The ensemble is the mean of the folds' "
    "networks, each at that temperature.",
    "ECE in 15 bins of equal width, adaptive in 15 of equal mass. By chance: what a perfectly calibrated network would "
    "show in the latter, mean and bounds of 95 %, if one number an original decided which of its copies are read "
    "right.",
    "Prediction sets promise 95 % of the originals, each weighing the same: a copy drawn at random, all copies at "
    "once, or a copy within each class. Of a class of fewer than 19 originals no 95 % can be promised, so it is in all "
    "sets of the last kind. APS and RAPS cut off a random share of the last class. The one network's thresholds are "
    "those of the folds' networks, so its promise holds as far as it errs like them. Sets of the ensemble are "
    "cross-conformal: each TRAIN image is compared with the network that left it out; proved are 90 %.",
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the networks say."""

    held_out: Predictions
    """All of TRAIN, each image by the network of the fold that holds it."""
    folds: Int[np.ndarray, "n"]
    """That fold."""
    test: Predictions
    """TEST, by the network trained on all of TRAIN."""
    members: Float[np.ndarray, "folds m c"]
    """Logits of TEST by the folds' networks."""


def uncertainty_study(
    config: cfg.ClassifierConfig, *, experiment: str, runs: Path, results: Path, notes: Sequence[str] = ()
) -> Rows:
    """Train the network of ``config`` on TRAIN and on each fold's rest, and judge its certainty on TEST.

    Raises:
      ConfigError: if the config holds out a fold, pools TRAIN and TEST, or has a head whose outputs are no
        probabilities of exclusive classes.
    """
    started = time.perf_counter()
    if config.fold is not None or config.train_split != "TRAIN":
        raise ConfigError(f"fold = {config.fold}, train_split = {config.train_split!r}: the study cuts TRAIN itself; "
                          "give fold None and train_split 'TRAIN'")
    if config.model.head != "softmax":
        raise ConfigError(f"model.head = {config.model.head!r}: temperature and prediction sets need 'softmax'")
    fingerprint = proven_fingerprint(config.data)
    evidence, labels = gather(config, runs)
    rows = uncertainty_rows(evidence, model=config.model.name, input=config.input, **labels)
    write_results(results / f"{experiment}.json", experiment=experiment, config=portable(config), rows=rows,
                  seeds=config.train.seed, data_fingerprint=fingerprint, wall_time=time.perf_counter() - started,
                  notes=(*NOTES, *notes))
    return rows


def gather(config: cfg.ClassifierConfig, runs: Path) -> tuple[Evidence, dict[str, str]]:
    """Predictions of the folds' networks and of the one trained on all of TRAIN, and what labels the run."""
    splits = Splits()
    held_out, folds, members = [], [], []
    for fold in range(config.folds):
        held = replace(config, fold=fold)
        model, _ = load_run(ensure_trained(held, runs, splits))
        _, part = train_and_validation(held, splits.get(held, "TRAIN"))
        held_out.append(predict_split(model, part, held))
        folds += [fold] * len(part)
        members.append(predict_split(model, splits.get(held, "TEST"), held).logits)
    model, _ = load_run(ensure_trained(config, runs, splits))
    test = predict_split(model, splits.get(config, "TEST"), config)
    return (Evidence(pooled(held_out), np.array(folds), test, np.stack(members)), run_labels(config, model))


def uncertainty_rows(evidence: Evidence, **common) -> Rows:
    """Every figure of the study."""
    held_out, test = evidence.held_out, evidence.test
    temperature = cal.fit_temperature(held_out.logits, held_out.labels)
    rows: Rows = [row(**common, split=OUT_OF_FOLD, metric="temperature", value=temperature)]
    for scaling, t in ((RAW, 1.0), (SCALED, temperature)):
        on = {"network": ONE, "calibration": scaling}
        rows += forecast_rows(cal.softmax(held_out.logits, t), held_out, **common, **on, split=OUT_OF_FOLD)
        one, five = cal.softmax(test.logits, t), cal.softmax(evidence.members, t).mean(axis=0)
        for network, probabilities in ((ONE, one), (FIVE, five)):
            on = {"network": network, "calibration": scaling, "split": "TEST"}
            rows += forecast_rows(probabilities, test, **common, **on)
            rows += reliability_rows(probabilities, test, **common, **on)
            rows += abstention_rows(probabilities, test, **common, **on)
    rows += threshold_rows(evidence, temperature, **common, split="TEST", network=ONE, calibration=SCALED)
    return rows + set_rows(evidence, temperature, **common, split="TEST")


def forecast_rows(probabilities: Float[np.ndarray, "n c"], predictions: Predictions, **common) -> Rows:
    """Accuracy, likelihood, Brier score and calibration errors, with intervals over originals."""
    labels, sources = predictions.labels, predictions.sources
    confidence, right = certainty(probabilities, labels)
    _, counts = confusion_by_source(labels, probabilities.argmax(axis=1), sources, probabilities.shape[1])
    figures = {"accuracy": bootstrap(counts, accuracy)}
    for metric, values in (("nll", cal.negative_log_likelihood(probabilities, labels)),
                           ("brier", cal.brier(probabilities, labels))):
        figures[metric] = bootstrap_mean(values, sources, labels)
    classes = classes_of(predictions)
    adaptive = cal.equal_mass_edges(confidence, BINS)
    for metric, edges in (("ece", np.arange(1, BINS) / BINS), ("adaptive_ece", adaptive)):
        tables = cal.tables_by_source(confidence, right, edges, sources)
        figures[metric] = bootstrap(tables, calibration_error, classes=classes)
    figures["chance_ece"] = cal.calibrated_error(confidence, adaptive, sources)
    return [row(**common, metric=metric, **interval._asdict()) for metric, interval in figures.items()]


def reliability_rows(probabilities: Float[np.ndarray, "n c"], predictions: Predictions, **common) -> Rows:
    """Accuracy of the images of each bin of confidence, bins of equal mass."""
    confidence, right = certainty(probabilities, predictions.labels)
    edges = cal.equal_mass_edges(confidence, RELIABILITY_BINS)
    tables = cal.tables_by_source(confidence, right, edges, predictions.sources)
    total, classes, rows = tables.sum(axis=0), classes_of(predictions), []
    for k in np.flatnonzero(total[:, 0]):
        # A sample may hold no image of the bin: it says nothing of it, and is set to what the set itself says.
        share = lambda sums, k=k: np.where(  # noqa: E731
            sums[:, k, 0] > 0, sums[:, k, 2] / np.maximum(sums[:, k, 0], 1), total[k, 2] / total[k, 0])
        rows.append(row(**common, metric="bin_accuracy", bin=k, confidence=total[k, 1] / total[k, 0],
                        share=total[k, 0] / total[:, 0].sum(), **bootstrap(tables, share, classes=classes)._asdict()))
    return rows


def abstention_rows(probabilities: Float[np.ndarray, "n c"], predictions: Predictions, **common) -> Rows:
    """AURC, and the accuracy on the most certain images."""
    confidence, right = certainty(probabilities, predictions.labels)
    figure = lambda statistic: bootstrap_images(statistic, predictions.sources, predictions.labels)._asdict()  # noqa: E731
    rows = [row(**common, metric="aurc", **figure(lambda weights: selective.aurc(confidence, right, weights)))]
    for kept in KEPT:
        accurate = lambda w, kept=kept: selective.selective_accuracy(confidence, right, w, kept)  # noqa: E731
        rows.append(row(**common, metric="selective_accuracy", kept=kept, **figure(accurate)))
    return rows


def threshold_rows(evidence: Evidence, temperature: float, **common) -> Rows:
    """Abstention as it would be used: below the confidence that nine tenths of the folds' images reach."""
    held_out, test = evidence.held_out, evidence.test
    limit = np.quantile(cal.softmax(held_out.logits, temperature).max(axis=1), 0.1)
    confidence, right = certainty(cal.softmax(test.logits, temperature), test.labels)
    accepted = confidence >= limit
    sums = sums_by_source(np.stack([np.ones(len(right)), accepted, accepted & right], axis=1), test.sources)
    statistics = {
        "accepted": lambda totals: totals[:, 1] / totals[:, 0],
        "selective_accuracy": lambda totals: totals[:, 2] / np.maximum(totals[:, 1], 1),
    }
    return [row(**common, metric=metric, threshold="of the folds",
                **bootstrap(sums, statistic, classes=classes_of(test))._asdict())
            for metric, statistic in statistics.items()]


def set_rows(evidence: Evidence, temperature: float, **common) -> Rows:
    """Coverage and size of the prediction sets, each score and each promise."""
    held_out, test = evidence.held_out, evidence.test
    known, new = cal.softmax(held_out.logits, temperature), cal.softmax(test.logits, temperature)
    members = cal.softmax(evidence.members, temperature)
    rng = np.random.default_rng(0)
    cut_known, cut_new = rng.random(len(known)), rng.random(len(new))
    rows: Rows = []
    for name, score in SCORES.items():
        true = conformal.true_scores(score(known, cut_known), held_out.labels)
        scores = score(new, cut_new)
        worst, originals = conformal.worst_copy(true, held_out.sources)
        sets = {
            (ONE, COPY): scores <= conformal.threshold(true, held_out.sources, ALPHA),
            (ONE, ALL_COPIES): scores <= conformal.threshold(worst, originals, ALPHA),
            (ONE, BY_CLASS): scores <= conformal.class_thresholds(true, held_out.labels, held_out.sources, ALPHA,
                                                                  new.shape[1]),
            (FIVE, COPY): conformal.cross_conformal_sets(true, held_out.sources, evidence.folds,
                                                         np.stack([score(member, cut_new) for member in members]),
                                                         ALPHA),
        }
        for (network, promise), members_of_sets in sets.items():
            rows += coverage_rows(members_of_sets, test, network=network, score=name, promise=promise, **common)
    return rows


def coverage_rows(sets: Bool[np.ndarray, "n c"], predictions: Predictions, *, promise: str, **common) -> Rows:
    """Coverage, size and share of single classes of prediction sets, each original weighing the same."""
    labels, size = predictions.labels, sets.sum(axis=1)
    columns = np.stack([np.ones(len(labels)), sets[np.arange(len(labels)), labels], size, size == 1], axis=1)
    sums = sums_by_source(columns, predictions.sources)
    shares = sums / sums[:, :1]
    if promise == ALL_COPIES:
        shares[:, 1] = sums[:, 1] == sums[:, 0]
    common["promise"] = promise
    classes = classes_of(predictions)
    rows = [row(**common, metric=metric, **bootstrap(
        shares, lambda totals, k=k: totals[:, k] / totals[:, 0], classes=classes)._asdict())
        for k, metric in enumerate(("coverage", "set_size", "singletons"), 1)]
    return rows + [row(**common, metric="coverage", class_name=CLASS_NAMES[k], value=shares[classes == k, 1].mean())
                   for k in np.unique(classes)]


def certainty(
    probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """The largest probability of each image, and whether its class is the true one."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def sums_by_source(values: Float[np.ndarray, "n k"], sources: Sequence[str]) -> Float[np.ndarray, "originals k"]:
    """Sums over the images of each original, in the order of their names."""
    index = groups_of(sources)
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def classes_of(predictions: Predictions) -> Int[np.ndarray, "originals"]:
    """The class of each original, in the order of their names."""
    _, first = np.unique(predictions.sources, return_index=True)
    return predictions.labels[first]
