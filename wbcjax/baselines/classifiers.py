"""k nearest neighbours, a support vector machine and a small multilayer network on features.

Their settings are chosen on folds by original.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from wbcjax.baselines import require
from wbcjax.data.splits import grouped_folds
from wbcjax.typing import Float, Int

GRIDS: dict[str, dict[str, tuple]] = {
    "knn": {"n_neighbors": (1, 5, 15, 45, 135), "weights": ("uniform", "distance")},
    "svm": {"C": (0.1, 1.0, 10.0, 100.0), "gamma": (0.001, 0.003, 0.01, 0.03)},
    "mlp": {"hidden_layer_sizes": ((32,), (128,)), "alpha": (0.01, 1.0, 10.0)},
}
"""What is tried for each classifier. Features have unit deviation, so widths of about 1 / their number are in place."""

MLP_EPOCHS = 60
"""Passes of the multilayer network: it ends there, converged or not, as its weight decay was chosen for that."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier with the settings that did best on folds."""

    pipeline: Any
    """Of scikit-learn, with ``predict``."""
    settings: dict[str, Any]
    fold_accuracy: float
    """Mean accuracy of these settings over the folds that they were chosen on."""


def fit(
    name: str,
    features: Float[np.ndarray, "n f"],
    labels: Int[np.ndarray, "n"],
    sources: tuple[str, ...],
    *,
    chosen_on: Int[np.ndarray, "m"] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Fitted:
    """Standardise, choose the settings by folds of these items grouped by original, and fit on all of them.

    Args:
      name: a key of ``GRIDS``.
      chosen_on: indices of the items that settings are chosen on, all where it is None; fewer are faster.

    Raises:
      ConfigError: for an unknown name, or without scikit-learn.
      DataError: as ``grouped_folds``.
    """
    selection = require("sklearn.model_selection")
    chosen_on = np.arange(len(labels)) if chosen_on is None else chosen_on
    fold_of = grouped_folds(labels[chosen_on], [sources[i] for i in chosen_on], folds, seed)
    fewest = len(chosen_on) - int(np.bincount(fold_of).max())  # fitted on, with the largest fold held out
    grid = {f"classifier__{key}": [value for value in values if key != "n_neighbors" or value <= fewest]
            for key, values in GRIDS[name].items()}
    search = selection.GridSearchCV(
        pipeline(name, seed), grid, scoring="accuracy", cv=selection.PredefinedSplit(fold_of), refit=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", require("sklearn.exceptions").ConvergenceWarning)
        search.fit(features[chosen_on], labels[chosen_on])
        best = pipeline(name, seed).set_params(**search.best_params_).fit(features, labels)
    settings = {key.removeprefix("classifier__"): value for key, value in search.best_params_.items()}
    return Fitted(best, settings, float(search.best_score_))


def pipeline(name: str, seed: int = 0) -> Any:
    """Standardisation and an unfitted classifier.

    Raises:
      ConfigError: without scikit-learn.
    """
    classifiers = {
        "knn": lambda: require("sklearn.neighbors").KNeighborsClassifier(),
        "svm": lambda: require("sklearn.svm").SVC(kernel="rbf", cache_size=500),
        "mlp": lambda: require("sklearn.neural_network").MLPClassifier(
            max_iter=MLP_EPOCHS, random_state=seed),
    }
    steps = [("scale", require("sklearn.preprocessing").StandardScaler()), ("classifier", classifiers[name]())]
    return require("sklearn.pipeline").Pipeline(steps)
