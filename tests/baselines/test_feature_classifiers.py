"""Classifiers on features: settings are chosen by original."""

import numpy as np
import pytest

from wbcjax.baselines.classifiers import GRIDS, fit, pipeline


def copies(originals=24, each=8, classes=3, noise=0.05, seed=0):
    """Features of copies: one number tells the class apart poorly, others tell the original apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(originals) % classes
    centres = rng.normal(size=(originals, 6)) * 3
    centres[:, 0] = labels + rng.normal(size=originals) * 0.3
    items = np.repeat(np.arange(originals), each)
    features = centres[items] + noise * rng.normal(size=(len(items), 6))
    return features, labels[items].astype(np.int32), tuple(f"original {i:02d}" for i in items)


@pytest.mark.parametrize("name", GRIDS)
def test_it_learns_and_states_what_it_chose(name):
    features, labels, sources = copies()
    fitted = fit(name, features, labels, sources, folds=4)
    assert (fitted.pipeline.predict(features) == labels).mean() > 0.9
    assert set(fitted.settings) == set(GRIDS[name]) and all(
        value in GRIDS[name][key] for key, value in fitted.settings.items())


def test_the_accuracy_on_folds_is_of_originals_that_were_not_fitted():
    features, labels, sources = copies()
    labels = np.random.default_rng(1).permutation(24)[np.repeat(np.arange(24), 8)].astype(np.int32) % 3
    fitted = fit("knn", features[:, 1:], labels, sources, folds=4)  # only the original can be told
    assert (fitted.pipeline.predict(features[:, 1:]) == labels).mean() > 0.6
    assert fitted.fold_accuracy < 0.6


def test_settings_are_chosen_on_the_items_named_and_the_fit_takes_all():
    features, labels, sources = copies()
    few = np.arange(0, len(labels), 4)
    fitted = fit("knn", features, labels, sources, chosen_on=few, folds=4)
    assert fitted.pipeline[-1].n_samples_fit_ == len(labels)
    alone = fit("knn", features[few], labels[few], tuple(sources[i] for i in few), folds=4)
    assert (alone.settings, alone.fold_accuracy) == (fitted.settings, fitted.fold_accuracy)


def test_features_are_standardised():
    features, labels, _ = copies()
    scaled = features * np.array([1, 1e4, 1e-4, 1, 1, 1]) + 7
    a, b = (pipeline("svm").fit(x, labels).predict(x) for x in (features, scaled))
    np.testing.assert_array_equal(a, b)
