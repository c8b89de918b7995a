"""LeNet and the custom CNNs: parameter counts, intermediates, gradients, modes, types, determinism, any input size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import ModelConfig
from wbcjax.errors import ConfigError
from wbcjax.models import MODELS, CustomCNN1, CustomCNN2, build, parameter_count
from wbcjax.training import merge, split

OWN = ("custom1", "custom2", "lenet")
"""Those over a backbone are in ``test_backbone_classifier.py``."""
SIZE = (33, 49)  # odd, not square

COUNTS = {
    ("lenet", (32, 32)): 61_496,
    ("lenet", (80, 80)): 568_376,
    ("custom1", (32, 32)): 114_468,
    ("custom1", (80, 80)): 114_468,
    ("custom2", (32, 32)): 1_016_852,
    ("custom2", (80, 80)): 1_016_852,
}
"""For four classes."""


def conv(kernel, inputs, outputs, bias=True):
    return kernel * kernel * inputs * outputs + bias * outputs


def dense(inputs, outputs):
    return inputs * outputs + outputs


def count_by_hand(name, size, classes=4):
    if name == "lenet":
        rows, columns = (((s - 4) // 2 - 4) // 2 for s in size)
        return conv(5, 3, 6) + conv(5, 6, 16) + dense(16 * rows * columns, 120) + dense(120, 84) + dense(84, classes)
    filters = MODELS[name].filters
    inputs = (3, *filters[:-1])
    per_filter = {"custom1": 1, "custom2": 2}[name]  # a bias; the scale and shift of batch norm
    blocks = sum(conv(3, i, o, bias=False) + per_filter * o for i, o in zip(inputs, filters, strict=True))
    return blocks + dense(filters[-1], MODELS[name].hidden) + dense(MODELS[name].hidden, classes)


@pytest.fixture(scope="module", params=OWN)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return build(ModelConfig(name=name, image_size=SIZE, dropout=0.5), seed=1)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((4, *SIZE, 3)), jnp.float32)


@pytest.fixture(scope="module")
def run(model):
    """(params, stats, images, training, dropout seed) -> (logits, new stats), compiled."""
    graphdef, _, _ = split(model)

    def call(params, stats, images, training=False, seed=0):
        now = merge(graphdef, params, stats, training=training)
        logits = now(images, rngs=nnx.Rngs(dropout=jax.random.key(seed)))
        return logits, nnx.to_pure_dict(nnx.state(now, nnx.BatchStat))

    return jax.jit(call, static_argnames="training")


def evaluation(model):
    return merge(*split(model), training=False)


@pytest.mark.parametrize("size", [(32, 32), (80, 80)])
def test_parameter_counts(name, size):
    shapes = nnx.eval_shape(lambda: MODELS[name](ModelConfig(name=name, image_size=size), rngs=nnx.Rngs(0)))
    assert parameter_count(shapes) == COUNTS[name, size]
    assert count_by_hand(name, size) == COUNTS[name, size]


@pytest.mark.parametrize("size", [(32, 32), (65, 97), (80, 80), (240, 320)])
def test_any_size(name, size):
    config = ModelConfig(name=name, image_size=size, num_classes=7)

    def logits(x):
        model = MODELS[name](config, rngs=nnx.Rngs(0))
        model.eval()
        return model(x)

    out = jax.eval_shape(logits, jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    assert (out.shape, out.dtype) == ((2, 7), jnp.float32)


def test_intermediates_by_name(name, model, images):
    expected = {
        "lenet": {"block1": (14, 22, 6), "block2": (5, 9, 16), "dense1": (120,), "features": (84,)},
        "custom1": {f"block{k}": (33 >> k, 49 >> k, f) for k, f in enumerate(CustomCNN1.filters, 1)}
        | {"features": (128,)},
        "custom2": {f"block{k}": (33 >> min(k, 5), 49 >> min(k, 5), f) for k, f in enumerate(CustomCNN2.filters, 1)}
        | {"features": (128,)},
    }[name]
    found = nnx.jit(lambda m, x: m.intermediates(x))(evaluation(model), images)
    assert {k: v.shape[1:] for k, v in found.items()} == expected | {"logits": (4,)}
    assert found["features"].shape[1] == model.num_features
    assert all(np.isfinite(v).all() and v.std() > 1e-3 for v in found.values())


def test_features_lead_to_the_logits(model, images, run):
    now = evaluation(model)
    features = now.forward_features(images)
    logits = now.classify(features)
    assert features.shape == (4, now.num_features)
    np.testing.assert_allclose(logits, features @ now.classifier.kernel[...] + now.classifier.bias[...], rtol=1e-4)
    np.testing.assert_allclose(logits, run(*split(model)[1:], images)[0], rtol=1e-4, atol=1e-5)  # eager and jit


def test_reset_classifier_changes_the_last_layer_only(name, images):
    model = build(ModelConfig(name=name, image_size=SIZE), seed=1)
    before = dict(split(model)[1])
    model.reset_classifier(9, rngs=nnx.Rngs(5))
    after = split(model)[1]
    assert after.pop("classifier")["kernel"].shape == (model.num_features, 9)
    del before["classifier"]
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert jax.eval_shape(evaluation(model), images).shape == (4, 9)


def test_every_gradient_is_finite_and_present(model, images):
    graphdef, params, stats = split(model)

    @jax.jit
    @jax.grad
    def gradient(params):
        logits = merge(graphdef, params, stats, training=True)(images, rngs=nnx.Rngs(dropout=0))
        return -jax.nn.log_softmax(logits)[jnp.arange(4), jnp.arange(4)].mean()

    for path, leaf in jax.tree_util.tree_flatten_with_path(gradient(params))[0]:
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 1e-8, path


def test_dropout_is_on_in_training_only(model, images, run):
    _, params, stats = split(model)
    training = [np.asarray(run(params, stats, images, training=True, seed=s)[0]) for s in (0, 0, 1)]
    np.testing.assert_array_equal(training[0], training[1])
    assert np.abs(training[0] - training[2]).max() > 1e-3
    a, b = (np.asarray(run(params, stats, images, seed=s)[0]) for s in (0, 1))
    np.testing.assert_array_equal(a, b)


def test_batch_norm_learns_in_training_and_uses_it_in_evaluation(name, model, images, run):
    _, params, stats = split(model)
    _, after = run(params, stats, images, training=True)
    _, same = run(params, stats, images)
    jax.tree.map(np.testing.assert_array_equal, same, stats)
    assert bool(jax.tree.leaves(stats)) == (name == "custom2")
    for old, new in zip(jax.tree.leaves(stats), jax.tree.leaves(after), strict=True):
        assert not np.array_equal(old, new)
    if name == "custom2":  # in evaluation an image does not depend on its neighbours
        alone = run(params, after, images.at[1:].set(0.5))[0]
        np.testing.assert_allclose(run(params, after, images)[0][0], alone[0], rtol=1e-4, atol=1e-5)


def test_half_precision_computes_close_and_keeps_float32_where_it_counts(name, model, images, run):
    config = ModelConfig(name=name, image_size=SIZE, dropout=0.5, dtype="bfloat16")
    half = build(config, seed=1)
    graphdef, params, stats = split(half)
    jax.tree.map(np.testing.assert_array_equal, params, split(model)[1])
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}

    intermediates = jax.jit(lambda p, s, x: merge(graphdef, p, s, training=False).intermediates(x))
    found = intermediates(params, stats, images)
    assert found.pop("logits").dtype == jnp.float32
    assert {v.dtype for v in found.values()} == {jnp.dtype("bfloat16")}
    full = run(params, stats, images)[0]
    logits = intermediates(params, stats, images)["logits"]
    assert np.abs(logits - full).max() < 0.05 * np.abs(full).max()
    assert np.abs(logits - full).max() > 0


def test_parameters_follow_the_seed(name):
    config = ModelConfig(name=name, image_size=SIZE)
    a, b, c = (split(build(config, seed))[1] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(a["classifier"]["kernel"], c["classifier"]["kernel"])


def test_an_unknown_model_names_those_there_are():
    known = "capsule, compact, custom1, "
    with pytest.raises(ConfigError, match=rf"model\.name = 'vgg99' is unknown; the models are: {known}"):
        build(ModelConfig(name="vgg99"))


def test_images_too_small_for_the_pooling_are_refused():
    with pytest.raises(ConfigError, match=r"model\.image_size = \(31, 40\) is too small for custom2"):
        build(ModelConfig(name="custom2", image_size=(31, 40)))
    for name in OWN:
        config = ModelConfig(name=name, image_size=(MODELS[name].min_size,) * 2)
        smallest = build(config)
        smallest.eval()
        assert smallest(jnp.zeros((1, *config.image_size, 3))).shape == (1, 4)
