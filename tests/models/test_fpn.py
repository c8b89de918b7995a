"""The feature pyramid: values by hand, pooled levels, levels that do not exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.errors import ConfigError
from wbcjax.models.fpn import FPN, upsample

FLOAT32 = jnp.dtype("float32")
CHANNELS = {"c2": 3, "c3": 5, "c4": 7}
SHAPES = {"c2": (8, 12), "c3": (4, 6), "c4": (2, 3)}


def conv_by_hand(x, conv):
    """Convolution with zeros around the image, one output pixel at a time."""
    kernel, bias = np.asarray(conv.kernel[...]), np.asarray(conv.bias[...])
    k = len(kernel)
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = np.einsum("byxi,yxio->bo", padded[:, i : i + k, j : j + k], kernel) + bias
    return out


def random_biases(model):
    rng = np.random.default_rng(1)
    for conv in [*model.inner, *model.layer]:
        conv.bias[...] = jnp.asarray(rng.normal(size=conv.bias.shape), jnp.float32)


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(2, *SHAPES[name], CHANNELS[name])).astype(np.float32) for name in SHAPES}


def test_values_by_hand(maps):
    fpn = FPN(CHANNELS, (2, 3, 4, 5, 6), 4, dtype=FLOAT32, rngs=nnx.Rngs(0))
    random_biases(fpn)
    pyramid = nnx.jit(lambda m, x: m(x))(fpn, jax.tree.map(jnp.asarray, maps))
    total, expected = 0, []
    for name, inner, layer in zip(("c4", "c3", "c2"), fpn.inner[::-1], fpn.layer[::-1], strict=True):
        finer = np.arange(SHAPES[name][0])[:, None] // 2, np.arange(SHAPES[name][1]) // 2
        total = conv_by_hand(maps[name], inner) + (total[:, *finer] if expected else 0)
        expected.insert(0, conv_by_hand(total, layer))
    expected += [expected[-1][:, ::2, ::2], expected[-1][:, ::4, ::4]]
    assert [x.shape for x in pyramid] == [(2, 8, 12, 4), (2, 4, 6, 4), (2, 2, 3, 4), (2, 1, 2, 4), (2, 1, 1, 4)]
    for found, value in zip(pyramid, expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-4)


def test_levels_left_out_are_not_built(maps):
    fpn = FPN(CHANNELS, (3, 4), 4, dtype=FLOAT32, rngs=nnx.Rngs(0))
    assert fpn.names == ("c3", "c4")
    assert fpn.pooled == 0
    pyramid = fpn(jax.tree.map(jnp.asarray, maps))
    assert [x.shape for x in pyramid] == [(2, 4, 6, 4), (2, 2, 3, 4)]
    jax.tree.map(np.testing.assert_array_equal, fpn({n: jnp.asarray(maps[n]) for n in ("c3", "c4")}), pyramid)


def test_upsampling_repeats_pixels():
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(upsample(x)[0, :, :, 0], expected)


def test_half_precision_is_for_the_maps_alone(maps):
    fpn = FPN(CHANNELS, (3, 4), 4, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    assert {x.dtype for x in jax.tree.leaves(nnx.state(fpn, nnx.Param))} == {jnp.dtype("float32")}
    assert {x.dtype for x in fpn(jax.tree.map(jnp.asarray, maps))} == {jnp.dtype("bfloat16")}


def test_a_finest_level_that_the_backbone_lacks_names_those_there_are():
    with pytest.raises(ConfigError, match=r"model\.levels = \(1, 2\) .* expected to start at one of 2, 3, 4"):
        FPN(CHANNELS, (1, 2), 4, dtype=FLOAT32, rngs=nnx.Rngs(0))
