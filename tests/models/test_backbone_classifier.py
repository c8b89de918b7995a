"""Classifiers over every backbone: stages, gradients, frozen parts, heads, half precision, any size.

Arrays are drawn here, by the shapes of an abstract model, which is faster than to compile their own initialisation;
``build`` is tried on the smallest.
"""

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import ModelConfig
from wbcjax.errors import ConfigError
from wbcjax.models import BackboneClassifier, build, parameter_count
from wbcjax.models.backbone_classifier import adaptive_avg_pool
from wbcjax.models.backbones import BACKBONES, stage_names
from wbcjax.training import merge, split
from wbcjax.training.state import join, partition

SIZE, LARGE = (33, 49), (75, 91)  # odd, not square; the latter for InceptionV3
SOME = {"inception_v3": 7, "compact": 2}
"""Frozen stages where only some are: within InceptionV3's blocks, elsewhere three."""
SMALL = ["compact", "resnet18", "vgg16"]
REST = ("resnet34", "resnet101", "vgg16_bn", "inception_v3")
"""Those that differ from another one in depth or norms alone, and the one that takes minutes to compile."""
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in REST else []) for name in sorted(BACKBONES)]
PARAMETERS = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160,
              "inception_v3": 27_161_264}
"""As torchvision counts those of its classifiers of 1000 classes, InceptionV3's auxiliary head included."""


def config_of(name: str, **changes) -> ModelConfig:
    size = LARGE if name == "inception_v3" else SIZE
    return ModelConfig(**({"name": name, "image_size": size, "dropout": 0.5} | changes))


@functools.cache
def abstract(config: ModelConfig) -> BackboneClassifier:
    """The model's structure, and shapes for arrays."""
    return nnx.eval_shape(lambda: BackboneClassifier(config, rngs=nnx.Rngs(0)))


def drawn(config: ModelConfig, seed: int = 0) -> BackboneClassifier:
    """The model with kernels of He's deviation, and scales, biases and statistics about one and zero."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return rng.standard_normal(leaf.shape, np.float32) * np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)
        middle = float(path[-1].key in ("scale", "var"))
        return (middle + rng.uniform(-0.1, 0.1, leaf.shape)).astype(np.float32)

    graphdef, params, stats = split(abstract(config))
    return merge(graphdef, *jax.tree_util.tree_map_with_path(draw, (params, stats)), training=False)


def images_of(config: ModelConfig, batch: int = 3) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).random((batch, *config.image_size, 3)), jnp.float32)


@dataclass
class Evaluated:
    """What a model without batch statistics says, in float32, in bfloat16, and from frozen features."""

    model: BackboneClassifier
    values: dict
    half: dict
    of_frozen: dict
    features: dict


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def evaluated(name) -> Evaluated:
    """All in one program: fixed norms have the same arrays whatever is frozen, so one set serves every structure."""
    config = config_of(name, norm="frozen")
    model = drawn(config)
    graphdef, params, stats = split(model)
    half = split(abstract(replace(config, dtype="bfloat16")))[0]
    counts = (1, SOME.get(name, 3), len(stage_names(name)))
    frozen = {k: split(abstract(replace(config, frozen_stages=k)))[0] for k in counts}

    @jax.jit
    def run(params, stats, images):
        with_structure = lambda graphdef: merge(graphdef, params, stats, training=False)  # noqa: E731
        features = {k: with_structure(graph).frozen_features(images) for k, graph in frozen.items()}
        of_frozen = {k: with_structure(graph).logits_of_frozen(features[k]) for k, graph in frozen.items()}
        return (with_structure(graphdef).intermediates(images), with_structure(half).intermediates(images), of_frozen,
                features)

    return Evaluated(model, *run(params, stats, images_of(config)))


def test_stages_have_names_and_the_last_is_the_feature_vector(name, evaluated):
    backbone = evaluated.model.backbone
    values = {stage: evaluated.values[stage] for stage, _ in backbone.stages()}
    assert set(evaluated.values) == {*values, "features", "logits"}
    assert set(backbone.channels) <= set(values), "every map of a detector can be looked at"
    last = list(values.values())[-1]
    np.testing.assert_allclose(evaluated.values["features"], last.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
    assert evaluated.model.stage_names == tuple(f"backbone/{stage}" for stage in stage_names(name))
    assert {path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(split(evaluated.model)[1]["backbone"])} <= {
        *stage_names(name)}


def test_values_are_finite_and_differ_between_images(evaluated):
    for stage, value in evaluated.values.items():
        assert np.isfinite(value).all() and np.std(value) > 1e-3, stage
    assert np.std(evaluated.values["logits"], axis=0).min() > 1e-3


def test_half_precision_is_close_and_ends_in_float32(evaluated):
    full, half = evaluated.values["logits"], evaluated.half["logits"]
    assert half.dtype == jnp.float32
    assert {value.dtype for stage, value in evaluated.half.items() if stage != "logits"} == {jnp.dtype("bfloat16")}
    assert 0 < np.abs(half - full).max() < 0.1 * np.abs(full).max()


def test_frozen_features_lead_to_the_logits(name, evaluated):
    for count, logits in evaluated.of_frozen.items():
        np.testing.assert_allclose(logits, evaluated.values["logits"], rtol=1e-4, atol=1e-4, err_msg=str(count))
        if count == len(stage_names(name)):
            assert evaluated.features[count].shape == (3, evaluated.model.num_features), "pooled, to keep less"
        else:
            stage = evaluated.model.backbone.stages()[count - 1][0]
            np.testing.assert_allclose(evaluated.features[count], evaluated.values[stage], rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_and_present_and_frozen_statistics_stay(name):
    """Of what is trained; with the auxiliary head where there is one."""
    config = config_of(name, frozen_stages=SOME.get(name, 3), aux=name == "inception_v3")
    model = drawn(config)
    graphdef, params, stats = split(model)
    frozen = model.stage_names[: model.frozen_stages]

    @jax.jit
    def run(params, stats, images):
        trained, fixed = partition(params, frozen)

        def loss(trained):
            now = merge(graphdef, join(trained, fixed), stats, training=True)
            logits, aux = now.training_logits(images, nnx.Rngs(dropout=0))
            assert (aux is None) == (name != "inception_v3")
            total = sum((x**2).mean() for x in (logits, aux) if x is not None)
            return total, nnx.to_pure_dict(nnx.state(now, nnx.BatchStat))

        return jax.grad(loss, has_aux=True)(trained)

    gradients, after = run(params, stats, images_of(config, batch=4))
    found = nnx.traversals.flatten_mapping(gradients)
    for path, gradient in found.items():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path
    below = {"/".join(map(str, path[:2])) for path in found}
    assert below >= set(model.stage_names[model.frozen_stages :]) and not below & set(frozen)

    before = nnx.traversals.flatten_mapping(stats)
    for path, value in nnx.traversals.flatten_mapping(after).items():
        is_frozen = "/".join(map(str, path[:2])) in frozen
        assert np.array_equal(value, before[path]) == is_frozen, path
    assert bool(before) == (name != "vgg16")


@pytest.mark.parametrize("size", [(75, 75), (240, 320)])
def test_any_size(name, size):
    config = config_of(name, image_size=size, num_classes=7)
    graphdef, params, stats = split(abstract(config))
    logits = jax.eval_shape(lambda p, s, x: merge(graphdef, p, s, training=False)(x), params, stats,
                            jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def test_what_is_too_small_or_frozen_too_far_is_refused_with_the_limit(name):
    least, stages = (75 if name == "inception_v3" else 32), len(stage_names(name))
    with pytest.raises(ConfigError, match=rf"too small for {name}: expected at least {least} pixels a side"):
        abstract(config_of(name, image_size=(least, least - 1)))
    with pytest.raises(ConfigError, match=rf"model\.frozen_stages = {stages + 1} .* {name} has {stages} stages"):
        abstract(config_of(name, frozen_stages=stages + 1))
    if name != "inception_v3":
        with pytest.raises(ConfigError, match=rf"model\.aux = True is impossible: {name} has no auxiliary head"):
            abstract(config_of(name, aux=True))


@pytest.mark.parametrize("name", PARAMETERS)
def test_as_many_parameters_as_published(name):
    model = abstract(ModelConfig(name=name, image_size=(224, 224), num_classes=1000, aux=name == "inception_v3"))
    assert parameter_count(model) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "count"), [("vgg16", 138_357_544), ("vgg16_bn", 138_365_992)])
def test_vgg16_with_its_dense_layers_has_as_many_parameters_as_published(name, count):
    model = abstract(ModelConfig(name=name, image_size=(224, 224), num_classes=1000, pool="dense"))
    assert parameter_count(model) == count
    assert [layer.kernel.shape for layer in model.hidden] == [(25088, 4096), (4096, 4096)]


def test_build_draws_by_the_seed():
    config = config_of("compact")
    a, b, c = (split(build(config, seed))[1] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    for part in ("backbone", "classifier"):
        first, other = (jax.tree.leaves(params[part]) for params in (a, c))
        assert any(not np.array_equal(x, y) for x, y in zip(first, other, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_a_new_head_for_other_classes_and_pooling(name):
    config = config_of(name, norm="frozen", image_size=(65, 97))  # the last map has several pixels
    model = drawn(config)
    before = split(model)[1]["backbone"]
    images, features = images_of(config), {}
    for pool, hidden in (("avg", 0), ("max", 0), ("dense", 2), ("avg", 0)):
        model.reset_classifier(9, pool=pool, rngs=nnx.Rngs(5))
        assert (model.pool, len(model.hidden), model.classifier.kernel.shape[1]) == (pool, hidden, 9)
        width, logits = jax.eval_shape(lambda m, x: (m.forward_features(x), m(x)), model, images)
        assert width.shape == (3, model.num_features) and logits.shape == (3, 9)
        if pool != "dense":
            features[pool] = nnx.jit(lambda m, x: m.forward_features(x))(model, images)
    after = split(model)[1]
    assert set(after) == {"backbone", "classifier"}, "nothing is left of the dense layers"
    jax.tree.map(np.testing.assert_array_equal, after["backbone"], before)
    assert (features["max"] >= features["avg"]).all() and (features["max"] > features["avg"]).any()


def test_a_new_head_keeps_the_pooling_and_renews_the_auxiliary_one():
    def renewed():
        model = BackboneClassifier(config_of("inception_v3", aux=True, pool="max"), rngs=nnx.Rngs(0))
        assert model.aux.logits.kernel.shape == (768, 4)
        model.reset_classifier(9, rngs=nnx.Rngs(0))
        return model

    model = nnx.eval_shape(renewed)
    assert (model.pool, model.classifier.kernel.shape, model.aux.logits.kernel.shape) == ("max", (2048, 9), (768, 9))


def test_dense_layers_drop_units_in_training_only():
    model = drawn(config_of("compact", pool="dense", norm="frozen"))
    features = jnp.asarray(np.random.default_rng(0).random((2, model.num_features)), jnp.float32)
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    by_hand = np.asarray(features)
    for layer in model.hidden:
        by_hand = relu(by_hand @ layer.kernel[...] + layer.bias[...])
    by_hand = by_hand @ model.classifier.kernel[...] + model.classifier.bias[...]
    np.testing.assert_allclose(model.classify(features), by_hand, rtol=1e-3, atol=1e-4)
    model.train()
    a, b, c = (model.classify(features, nnx.Rngs(dropout=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_pooling_to_a_grid_by_hand():
    row = jnp.arange(4.0).reshape(1, 1, 4, 1)
    np.testing.assert_array_equal(adaptive_avg_pool(row, 2)[0, :, :, 0], [[0.5, 2.5]] * 2)
    five = jnp.arange(5.0).reshape(1, 1, 5, 1)  # cells of pixels 0–1, 1–3 and 3–4: those at the seams count twice
    np.testing.assert_allclose(adaptive_avg_pool(five, 3)[0, 0, :, 0], [0.5, 2, 3.5], rtol=1e-6)
    square = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(adaptive_avg_pool(square, 1)[0, 0, 0], [1.5])
    np.testing.assert_array_equal(adaptive_avg_pool(square, 2), square)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 7), (7, 10), (8, 13), (14, 5)])
def test_pooling_to_a_grid_as_pytorch_cuts(shape):
    """Cell i takes the pixels from floor(i n / 7) to ceil((i + 1) n / 7), of maps smaller than the grid as well."""
    x = np.random.default_rng(0).random((2, *shape, 3)).astype(np.float32)
    expected = np.empty((2, 7, 7, 3), np.float32)
    starts = [[int(np.floor(i * n / 7)) for i in range(7)] for n in shape]
    ends = [[int(np.ceil((i + 1) * n / 7)) for i in range(7)] for n in shape]
    for i in range(7):
        for j in range(7):
            expected[:, i, j] = x[:, starts[0][i] : ends[0][i], starts[1][j] : ends[1][j]].mean(axis=(1, 2))
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), 7), expected, rtol=1e-5, atol=1e-6)
    half = adaptive_avg_pool(jnp.asarray(x, jnp.bfloat16), 7)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, atol=0.01)
