"""The mask head: doubling the size against lax, own channels, the loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import MaskHeadConfig
from wbcjax.models.mask_head import Deconv, MaskHead, interleave, mask_loss, mask_of_class

FLOAT32 = jnp.dtype("float32")


def test_each_pixel_becomes_four():
    deconv = Deconv(1, 1, dtype=FLOAT32, rngs=nnx.Rngs(0))
    deconv.kernel[...] = jnp.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]
    deconv.bias[...] = jnp.array([0.5])
    x = jnp.array([[1.0, 10.0], [100.0, 0.0]])[None, :, :, None]
    expected = [[1.5, 2.5, 10.5, 20.5], [3.5, 4.5, 30.5, 40.5], [100.5, 200.5, 0.5, 0.5], [300.5, 400.5, 0.5, 0.5]]
    np.testing.assert_allclose(interleave(deconv(x))[0, :, :, 0], expected)


def test_it_is_the_transposed_convolution():
    deconv = Deconv(3, 5, dtype=FLOAT32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 3)), jnp.float32)
    # lax slides the kernel as it is: turned by half a turn it is what a gradient of a convolution spreads.
    expected = jax.lax.conv_transpose(x, deconv.kernel[...][::-1, ::-1], (2, 2), "VALID")
    np.testing.assert_allclose(interleave(deconv(x)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convs", [0, 2])
def test_shapes_and_types(convs):
    head = MaskHead(MaskHeadConfig(channels=6, convs=convs), 4, 2, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    out = nnx.eval_shape(lambda m, x: m(x), head, jax.ShapeDtypeStruct((5, 7, 7, 4), jnp.bfloat16))
    assert (out.shape, out.dtype) == ((5, 14, 14, 3), FLOAT32)


def test_a_mask_follows_its_box_around():
    """What lies in the upper right of the features is in the upper right of the mask."""
    head = MaskHead(MaskHeadConfig(channels=4, convs=1), 4, 1, dtype=FLOAT32, rngs=nnx.Rngs(0))
    plain = head(jnp.zeros((1, 8, 8, 4)))
    spot = head(jnp.zeros((1, 8, 8, 4)).at[0, 1, 6].set(1.0))
    changed = np.abs(np.asarray(spot - plain)).max(axis=(0, 3)) > 1e-7
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 5, 10, 15)


def test_each_box_takes_the_channel_of_its_label():
    logits = jnp.arange(2 * 3 * 3 * 4.0).reshape(2, 3, 3, 4)
    np.testing.assert_array_equal(mask_of_class(logits, jnp.array([3, 1])),
                                  np.stack([logits[0, :, :, 3], logits[1, :, :, 1]]))


def test_loss_by_hand_over_the_positives_alone():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 3, 4, 4)).astype(np.float32), rng.random((2, 3, 4, 4)).astype(np.float32)
    positive = np.array([[1, 0, 0], [1, 1, 0]], bool)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))[positive].mean()
    targets[~positive] = np.nan  # padding may hold anything
    value, gradient = jax.value_and_grad(mask_loss)(*map(jnp.asarray, (logits, targets, positive)))
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(np.asarray(gradient).any(axis=(2, 3)), positive)


def test_without_positives_loss_and_gradient_are_zero():
    value, gradient = jax.value_and_grad(mask_loss)(jnp.ones((1, 2, 4, 4)), jnp.ones((1, 2, 4, 4)),
                                                    jnp.zeros((1, 2), bool))
    assert float(value) == 0
    assert not np.asarray(gradient).any()
