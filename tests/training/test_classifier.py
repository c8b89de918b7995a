"""Losses of classifiers by hand, mixup, class weights, and prediction over whole sets."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import NO_AUGMENT, ClassifierConfig, ModelConfig, TrainConfig
from wbcjax.errors import ConfigError
from wbcjax.models import build
from wbcjax.training import classification_loss, evaluator, merge, predict_function, predict_logits, split
from wbcjax.training.classifier import class_weights, cross_entropy, mixup

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], np.float32)
PLAIN = TrainConfig(label_smoothing=0.0, mixup=0.0)
TARGETS = np.array([[1.0, 0.0, 0.0], [0.2, 0.0, 0.8]], np.float32)


class Affine(nnx.Module):
    """Logits that are the mean colours of an image."""

    def __call__(self, images, rngs=None):
        return images.mean(axis=(1, 2))

    def training_logits(self, images, rngs=None):
        return self(images), None


class WithAuxiliary(Affine):
    """A second head that sees the largest of each colour."""

    def training_logits(self, images, rngs=None):
        return self(images), images.max(axis=(1, 2))


class OnePixel(nnx.Module):
    """Logits that are one pixel of an image, beside a corner: every view moves another one there."""

    def __call__(self, images, rngs=None):
        return images[:, 0, 1]


def loss_of(images, labels, train=PLAIN, model=Affine, **options):
    loss_fn = classification_loss(NO_AUGMENT, train, num_classes=3, **options)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    return jax.jit(lambda batch, key: loss_fn(model(), {}, batch, key))(batch, jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    return build(ModelConfig(name="lenet", image_size=(20, 24)))


def test_softmax_loss_by_hand():
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    np.testing.assert_allclose(cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS)), -(TARGETS * log_p).sum(-1),
                               rtol=1e-6)


def test_sigmoid_loss_is_the_sum_of_one_binary_loss_a_class():
    p = 1 / (1 + np.exp(-LOGITS.astype(float)))
    expected = -(TARGETS * np.log(p) + (1 - TARGETS) * np.log(1 - p)).sum(-1)
    found = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS), head="sigmoid")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_loss_and_accuracy_of_a_batch_by_hand(images):
    logits = images.mean(axis=(1, 2)) / 255
    labels = np.array([0, 1, 2, 0, int(logits[4].argmax())], np.int32)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss, metrics = loss_of(images, labels)
    assert float(loss) == pytest.approx(-log_p[np.arange(5), labels].mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx((logits.argmax(-1) == labels).mean())


def test_label_smoothing_moves_a_share_to_all_classes(images):
    labels = np.zeros(5, np.int32)
    logits = images.mean(axis=(1, 2)) / 255
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(log_p @ [0.7 + 0.1, 0.1, 0.1]).mean()
    loss, _ = loss_of(images, labels, replace(PLAIN, label_smoothing=0.3))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_class_weights_scale_each_image_by_its_class(images):
    labels = np.array([0, 1, 1, 2, 2], np.int32)
    weights = np.array([2.0, 0.5, 0.0], np.float32)
    logits = images.mean(axis=(1, 2)) / 255
    losses = -(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[np.arange(5), labels]
    loss, _ = loss_of(images, labels, weights=weights)
    assert float(loss) == pytest.approx((losses * weights[labels]).mean(), rel=1e-5)


def test_class_weights_are_inverse_frequencies_of_mean_one():
    labels = np.array([0] * 6 + [1] * 2 + [2] * 4)
    weights = class_weights(labels, 3)
    np.testing.assert_allclose(weights, [12 / 18, 2, 1], rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(np.array([0, 0, 1, 1]), 3)[:2], 1)  # an absent class does not count


def test_mixup_blends_images_and_targets_by_the_same_share():
    """Image i is full of the number i, so both images and the share can be read off a blend."""
    n = 64
    images = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32)[:, None, None, None], (n, 2, 2, 3))
    targets = jnp.eye(n)
    mixed, shares = (np.asarray(x) for x in jax.jit(mixup, static_argnums=3)(jax.random.key(0), images, targets, 0.4))
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    assert shares[np.arange(n), np.arange(n)].min() >= 0.5  # each image stays the larger part of its blend
    assert (shares > 0).sum(-1).max() == 2
    assert shares.max(-1).std() > 0.05  # every image has a share of its own
    np.testing.assert_allclose(mixed[:, 0, 0, 0], shares @ np.arange(n), atol=1e-4)


def test_mixup_changes_the_loss(images):
    labels = np.array([0, 1, 2, 0, 1], np.int32)
    plain, _ = loss_of(images, labels)
    assert float(loss_of(images, labels, replace(PLAIN, mixup=1.0))[0]) != float(plain)


def test_an_auxiliary_head_adds_two_fifths_of_its_loss(images):
    labels = np.array([0, 1, 2, 0, 1], np.int32)
    log_p = [x - np.log(np.exp(x).sum(-1, keepdims=True))
             for x in (images.mean(axis=(1, 2)) / 255, images.max(axis=(1, 2)) / 255)]
    main, aux = (-x[np.arange(5), labels].mean() for x in log_p)
    loss, metrics = loss_of(images, labels, model=WithAuxiliary)
    assert float(loss) == pytest.approx(main + 0.4 * aux, rel=1e-5)
    assert metrics["accuracy"] == loss_of(images, labels)[1]["accuracy"], "the main head alone is judged"
    weights = np.array([2.0, 0.0, 0.0], np.float32)
    weighted, _ = loss_of(images, labels, model=WithAuxiliary, weights=weights)
    main, aux = (-(x[np.arange(5), labels] * weights[labels]).mean() for x in log_p)
    assert float(weighted) == pytest.approx(main + 0.4 * aux, rel=1e-5)


def test_the_loss_on_features_is_that_on_images():
    """Without augmentation and dropout; the features of frozen stages are those of training mode as well."""
    model = build(ModelConfig(name="compact", image_size=(32, 40), frozen_stages=4, dropout=0.0))
    graphdef, params, stats = split(model)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 40, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 3, 0, 1], np.int32)
    loss_fn = classification_loss(NO_AUGMENT, replace(PLAIN, label_smoothing=0.1), num_classes=4,
                                  weights=np.array([1.0, 2.0, 0.5, 1.0], np.float32))

    @jax.jit
    def losses(params, stats, images, labels, index):
        model = merge(graphdef, params, stats, training=True)
        features = model.frozen_features(images.astype(jnp.float32) / 255)
        return [loss_fn(model, {**inputs, "labels": labels}, {"index": index}, jax.random.key(0))
                for inputs in ({"images": images}, {"features": features})]

    (loss, metrics), (cached, of_cached) = losses(params, stats, images, labels, np.array([5, 2, 2, 0]))
    assert float(cached) == pytest.approx(float(loss), rel=1e-5)
    assert of_cached["accuracy"] == metrics["accuracy"]


@pytest.mark.parametrize(("views", "pixels"), [
    ("one", [(0, 1)]),
    ("flips", [(0, 1), (0, -2), (-1, 1), (-1, -2)]),
    ("dihedral", [(0, 1), (0, -2), (-1, 1), (-1, -2), (1, 0), (-2, 0), (1, -1), (-2, -1)]),
])
def test_views_are_averaged(images, views, pixels):
    expected = np.mean([images[:, i, j] / 255 for i, j in pixels], axis=0)
    found = predict_logits(*split(OnePixel()), images, views=views, batch_size=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_mirrored_views_need_no_square(images):
    wide = images[:, :3]
    expected = np.mean([wide[:, i, j] / 255 for i, j in [(0, 1), (0, -2), (-1, 1), (-1, -2)]], axis=0)
    np.testing.assert_allclose(predict_logits(*split(OnePixel()), wide, views="flips"), expected, rtol=1e-5)
    ClassifierConfig(model=ModelConfig(image_size=(32, 48)), test_views="flips")
    with pytest.raises(ConfigError, match="test_views = 'dihedral' is impossible: expected one or flips for 32×48"):
        ClassifierConfig(model=ModelConfig(image_size=(32, 48)), test_views="dihedral")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 128])
def test_prediction_is_the_same_in_any_batches(model, batch_size):
    images = np.random.default_rng(0).integers(0, 256, (7, 20, 24, 3), dtype=np.uint8)
    model.eval()
    expected = model(jnp.asarray(images, jnp.float32) / 255)
    found = predict_logits(*split(model), images, batch_size=batch_size)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_no_image_gives_no_logits(model):
    assert predict_logits(*split(model), np.zeros((0, 20, 24, 3), np.uint8)).shape == (0, 4)


def test_predict_function_evaluates_under_jit(model):
    images = jnp.asarray(np.random.default_rng(0).random((2, 20, 24, 3)), jnp.float32)
    predict = predict_function(model)
    np.testing.assert_allclose(jax.jit(predict)(images), predict(images), rtol=1e-4, atol=1e-5)


def test_the_evaluator_counts_each_class_alike(model):
    images = np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3), dtype=np.uint8)
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    graphdef, params, stats = split(model)
    logits = predict_logits(graphdef, params, stats, images)
    losses = -np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[np.arange(8), labels]
    right = logits.argmax(-1) == labels
    found = evaluator(model, images, labels, head="softmax", batch_size=3)(params, stats)
    assert found == {
        "loss": pytest.approx(np.mean([losses[:6].mean(), losses[6], losses[7]]), rel=1e-4),
        "accuracy": pytest.approx(right.mean()),
        "balanced_accuracy": pytest.approx(np.mean([right[:6].mean(), right[6], right[7]])),
    }
