"""Backbones: maps and their strides, gradients, frozen stages, normalisation, half precision, preprocessing.

Their values are compared with torchvision's in ``tests/parity/test_detector_parity.py``.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import DetectorModelConfig
from wbcjax.models.backbones import BACKBONES
from wbcjax.models.norms import EPSILON, FrozenBatchNorm, make_norm
from wbcjax.models.preprocessing import preprocess
from wbcjax.training import merge, split

PARAMETERS = {  # of torchvision's trunks, without statistics; compact's are our own
    "compact": 1_185_232, "inception_v3": 21_785_568, "resnet18": 11_176_512, "resnet34": 21_284_672,
    "resnet50": 23_508_032, "resnet101": 42_500_160, "vgg16": 14_714_688, "vgg16_bn": 14_723_136,
}
LEVELS = {"inception_v3": range(1, 6), "vgg16": range(6), "vgg16_bn": range(6)}
CONFIG = DetectorModelConfig(canvas=(64, 96), norm="batch")


def make(name: str, **changes):
    config = replace(CONFIG, backbone=name, **changes)
    return nnx.jit(lambda: BACKBONES[name](config, rngs=nnx.Rngs(0)))()


def images(batch: int = 2) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((batch, 64, 96, 3)), jnp.float32)


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_their_strides_channels_and_parameters(name):
    config = replace(CONFIG, backbone=name)
    backbone = nnx.eval_shape(lambda: BACKBONES[name](config, rngs=nnx.Rngs(0)))
    maps = jax.eval_shape(lambda x: BACKBONES[name](config, rngs=nnx.Rngs(0)).features(x), images())
    assert list(maps) == [f"c{level}" for level in LEVELS.get(name, range(2, 6))]
    for level, features in maps.items():
        stride = 2 ** int(level[1:])
        assert backbone.strides[level] == stride
        assert features.shape == (2, 64 // stride, 96 // stride, backbone.channels[level])
    assert sum(x.size for x in jax.tree.leaves(nnx.state(backbone, nnx.Param))) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["compact", "resnet18"])
def test_every_parameter_has_a_gradient(name):
    graphdef, params, stats = split(make(name))

    @jax.jit
    def gradients(params):
        def loss(params):
            maps = merge(graphdef, params, stats, training=False).features(images())
            return sum((features**2).mean() for features in maps.values())

        return jax.grad(loss)(params)

    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(params)):
        values = np.asarray(gradient)
        assert np.isfinite(values).all() and np.abs(values).max() > 0, path


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(norm):
    backbone = make("compact", norm=norm, frozen_stages=2)
    graphdef, params, stats = split(backbone)

    @jax.jit
    def run(params):
        def loss(params):
            model = merge(graphdef, params, stats, training=True)
            total = sum((features**2).mean() for features in model.features(images()).values())
            return total, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        return jax.grad(loss, has_aux=True)(params)

    gradients, after = run(params)
    frozen = backbone.stage_names[:2]
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert (np.abs(np.asarray(gradient)).max() == 0) == (path[0].key in frozen), path
    changed = jax.tree.map(lambda was, now: bool((was != now).any()), stats, after)
    for path, change in jax.tree_util.tree_leaves_with_path(changed):
        assert change != (path[0].key in frozen), path


def test_features_go_on_from_the_frozen_ones():
    backbone = make("compact", frozen_stages=2)
    backbone.eval()
    whole = backbone.features(images())
    rest = backbone.features(backbone.frozen_features(images()), done=2)
    assert list(rest) == ["c3", "c4", "c5"]
    for name, features in rest.items():
        np.testing.assert_allclose(features, whole[name], rtol=1e-5, atol=1e-5)


def test_half_precision_is_close():
    whole = make("compact")
    half = make("compact", dtype="bfloat16")
    for backbone in (whole, half):
        backbone.eval()
    for name, features in half.features(images()).items():
        assert features.dtype == jnp.bfloat16
        reference = np.asarray(whole.features(images())[name])
        assert np.abs(np.asarray(features, np.float32) - reference).max() < 0.1 * reference.std() + 0.02


def test_a_frozen_norm_is_batch_norm_with_fixed_statistics():
    rng = np.random.default_rng(1)
    scale, bias, mean, var = rng.random((4, 6)).astype(np.float32) + 0.5
    x = rng.standard_normal((2, 3, 4, 6)).astype(np.float32)
    frozen, batch = FrozenBatchNorm(6), make_norm("batch", 6, rngs=nnx.Rngs(0))
    batch.eval()
    for norm in (frozen, batch):
        for name, value in {"scale": scale, "bias": bias, "mean": mean, "var": var}.items():
            getattr(norm, name)[...] = jnp.asarray(value)
    expected = (x - mean) / np.sqrt(var + EPSILON) * scale + bias
    np.testing.assert_allclose(frozen(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)
    assert not jax.tree.leaves(nnx.state(frozen, nnx.Param))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (24, 8), (3, 1)])
def test_groups_divide_the_channels(channels, groups):
    assert make_norm("group", channels, rngs=nnx.Rngs(0)).num_groups == groups


def test_preprocessing():
    pixel = jnp.array([[[[1.0, 0.5, 0.0]]]])
    np.testing.assert_allclose(preprocess(pixel, "unit")[0, 0, 0], [2, 0, -2])
    np.testing.assert_allclose(
        preprocess(pixel, "imagenet")[0, 0, 0], [0.515 / 0.229, 0.044 / 0.224, -0.406 / 0.225], rtol=1e-5)
    np.testing.assert_allclose(
        preprocess(pixel, "caffe")[0, 0, 0], [-103.939, 127.5 - 116.779, 255 - 123.68], rtol=1e-5)
