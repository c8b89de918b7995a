"""Convolution and pooling against the plain operations of lax, which are the oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from wbcjax.models import layers
from wbcjax.models.layers import Conv, conv2d, max_pool_2x2, max_pool_3x3

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rules under test are the CPU's")


def plain(x, kernel, strides=(1, 1), padding="SAME"):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def gradients(conv, x, kernel, strides, padding):
    y, pullback = jax.vjp(lambda x, k: conv(x, k, strides, padding), x, kernel)
    return y, *pullback(normal(7, *y.shape, dtype=y.dtype))


def assert_close(actual, expected, tolerance=1e-6):
    """Relative to the largest magnitude: every entry sums many terms, and some nearly cancel."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        a, e = np.asarray(a, np.float32), np.asarray(e, np.float32)
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * max(np.abs(e).max(), 1e-30))


# Shape of the images, outputs, kernel size. The names say which rule each one takes.
CASES = {
    "wide pixels, width divisible": ((4, 8, 16, 3), 16, 3),
    "wide pixels, odd width": ((3, 7, 13, 3), 16, 3),
    "wide pixels, 5x5, six outputs": ((2, 12, 19, 3), 6, 5),
    "wide input gradient": ((2, 9, 10, 6), 16, 5),
    "plain": ((4, 9, 10, 16), 32, 3),
    "1x7": ((3, 5, 8, 16), 24, (1, 7)),
    "7x1": ((3, 8, 5, 16), 24, (7, 1)),
    "1x1": ((3, 5, 6, 16), 24, 1),
    "1x1 of few channels": ((3, 5, 6, 3), 4, 1),
    "image smaller than the kernel": ((4, 2, 2, 16), 24, 3),
    "one pixel": ((2, 1, 1, 16), 12, 3),
    "even kernel": ((2, 6, 7, 12), 12, 2),
    "one image": ((1, 6, 7, 12), 12, 3),
    "one channel": ((5, 6, 7, 1), 1, 3),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_conv_equals_lax(case, padding):
    shape, outputs, size = CASES[case]
    size = (size, size) if isinstance(size, int) else size
    if padding == "VALID" and (shape[1] < size[0] or shape[2] < size[1]):
        pytest.skip("no output")
    x, kernel = normal(0, *shape), normal(1, *size, shape[3], outputs)
    assert_close(gradients(conv2d, x, kernel, (1, 1), padding), gradients(plain, x, kernel, (1, 1), padding))


@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("inputs", [3, 16])  # either rule of the kernel gradient
def test_strided_conv_equals_lax(strides, inputs):
    x, kernel = normal(0, 2, 9, 12, inputs), normal(1, 3, 3, inputs, 16)
    for padding in ("SAME", "VALID", ((3, 0), (1, 2))):
        assert_close(gradients(conv2d, x, kernel, strides, padding), gradients(plain, x, kernel, strides, padding))


@pytest.mark.parametrize("kernel_size", [(1, 7), (7, 1)])
@pytest.mark.parametrize("size", [(8, 9), (3, 2)])
def test_kernels_need_not_be_square(kernel_size, size):
    x, kernel = normal(0, 2, *size, 12), normal(1, *kernel_size, 12, 16)
    assert_close(gradients(conv2d, x, kernel, (1, 1), "SAME"), gradients(plain, x, kernel, (1, 1), "SAME"))
    assert nnx.eval_shape(lambda: Conv(12, 16, kernel_size, rngs=nnx.Rngs(0))).kernel.shape == (*kernel_size, 12, 16)


def test_stem_of_residual_networks_equals_lax():
    x, kernel, border = normal(0, 2, 21, 26, 3), normal(1, 7, 7, 3, 16), ((3, 3), (3, 3))
    assert_close(gradients(conv2d, x, kernel, (2, 2), border), gradients(plain, x, kernel, (2, 2), border))


@pytest.mark.parametrize("batch", [1, 3])
def test_kernel_gradient_of_many_channels_sums_over_taps(batch, monkeypatch):
    monkeypatch.setattr(layers, "MANY_CHANNELS", 12)
    monkeypatch.setattr(layers, "LARGE_GRADIENT", 7 * 8 * 12)
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", 1)
    x, kernel, border = normal(0, batch, 7, 9, 16), normal(1, 3, 2, 16, 12), ((1, 1), (0, 0))
    ours = gradients(lambda *args: conv2d(*args), x, kernel, (1, 1), border)
    assert_close(ours, gradients(plain, x, kernel, (1, 1), border))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("border", [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((3, 2), (0, 4))])
def test_kernel_gradient_of_large_maps_sums_over_strips(batch, border, monkeypatch):
    monkeypatch.setattr(layers, "LARGE_MAP", 1)
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(layers, "STRIP_ROWS", 4)
    x, kernel = normal(0, batch, 11, 9, 16), normal(1, 3, 2, 16, 12)
    ours = gradients(lambda *args: conv2d(*args), x, kernel, (1, 1), border)
    assert_close(ours, gradients(plain, x, kernel, (1, 1), border))


@pytest.mark.parametrize("strides", [(2, 2), (1, 3)])
def test_strided_1x1_conv_equals_lax(strides):
    x, kernel = normal(0, 2, 7, 8, 5), normal(1, 1, 1, 5, 9)
    for padding in ("SAME", "VALID", ((0, 1), (1, 0))):
        assert_close(gradients(conv2d, x, kernel, strides, padding), gradients(plain, x, kernel, strides, padding))


@settings(max_examples=10, deadline=None)
@given(
    batch=st.integers(1, 6),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    inputs=st.sampled_from([1, 3, 9, 16]),
    outputs=st.sampled_from([1, 6, 16, 50]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    borders=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_conv_equals_lax_for_any_shape_and_padding(batch, height, width, inputs, outputs, kernel, borders):
    padding = (borders[:2], borders[2:])
    if height + sum(borders[:2]) < kernel[0] or width + sum(borders[2:]) < kernel[1]:
        return
    x, k = normal(0, batch, height, width, inputs), normal(1, *kernel, inputs, outputs)
    assert_close(gradients(conv2d, x, k, (1, 1), padding), gradients(plain, x, k, (1, 1), padding))


@pytest.mark.parametrize("batch", [1, 6, 7])
def test_kernel_gradient_sums_over_chunks(batch, monkeypatch):
    x, kernel = normal(0, batch, 5, 6, 9), normal(1, 3, 3, 9, 10)
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", 3 * 5 * 6 * 9)
    ours = gradients(lambda *args: conv2d(*args), x, kernel, (1, 1), "SAME")  # a new function, so it is traced anew
    assert_close(ours, gradients(plain, x, kernel, (1, 1), "SAME"))


def test_conv_of_no_image():
    x, kernel = jnp.zeros((0, 6, 7, 3)), normal(1, 3, 3, 3, 16)
    y, dx, dk = gradients(conv2d, x, kernel, (1, 1), "SAME")
    assert y.shape == (0, 6, 7, 16) and dx.shape == x.shape and not dk.any()


@pytest.mark.parametrize("case", ["wide pixels, odd width", "plain", "image smaller than the kernel"])
def test_conv_in_bfloat16(case):
    shape, outputs, size = CASES[case]
    x, kernel = normal(0, *shape, dtype=jnp.bfloat16), normal(1, size, size, shape[3], outputs, dtype=jnp.bfloat16)
    ours = gradients(conv2d, x, kernel, (1, 1), "SAME")
    assert all(a.dtype == jnp.bfloat16 for a in ours)
    assert_close(ours, gradients(plain, x, kernel, (1, 1), "SAME"), tolerance=0.02)


def test_conv_under_vmap_over_images_and_kernels():
    x, kernel = normal(0, 3, 2, 6, 7, 3), normal(1, 3, 3, 3, 3, 16)
    y = jax.vmap(lambda x, k: gradients(conv2d, x, k, (1, 1), "SAME"))(x, kernel)
    expected = [gradients(plain, x[i], kernel[i], (1, 1), "SAME") for i in range(3)]
    assert_close(y, [jnp.stack(parts) for parts in zip(*expected, strict=True)])


def test_conv_module_adds_its_bias_in_its_dtype():
    conv = Conv(3, 16, dtype=jnp.dtype(jnp.bfloat16), rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(16.0)
    x = normal(0, 2, 6, 7, 3)
    y = conv(x)
    assert y.dtype == jnp.bfloat16 and conv.kernel[...].dtype == jnp.float32
    np.testing.assert_array_equal(y, conv2d(x.astype(jnp.bfloat16), conv.kernel[...].astype(jnp.bfloat16))
                                  + jnp.arange(16, dtype=jnp.bfloat16))
    assert Conv(3, 16, use_bias=False, rngs=nnx.Rngs(0)).bias is None


@functools.partial(jax.jit, static_argnums=0)
def pool_gradients(pool, x):
    y, pullback = jax.vjp(pool, x)
    return y, pullback(normal(3, *y.shape, dtype=y.dtype))[0]


def nnx_pool(x):
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


@settings(max_examples=10, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(1, 4)),
    levels=st.integers(1, 4),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
def test_max_pool_is_bit_equal_ties_and_odd_sizes_included(shape, levels, seed, dtype):
    x = jnp.asarray(np.random.default_rng(seed).integers(-levels, levels, shape), dtype)
    for actual, expected in zip(pool_gradients(max_pool_2x2, x), pool_gradients(nnx_pool, x), strict=True):
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == expected.dtype


@pytest.mark.parametrize(
    ("shape", "levels", "dtype"),
    [((2, 7, 8, 3), 2, jnp.float32), ((1, 6, 9, 2), 1, jnp.bfloat16), ((1, 2, 5, 1), 3, jnp.float32),
     ((2, 1, 1, 2), 3, jnp.float32)],
)
@pytest.mark.parametrize("padding", [1, 0])
def test_max_pool_3x3_is_equal_ties_and_odd_sizes_included(shape, levels, dtype, padding):
    """Gradients are whole numbers: their sums over windows that overlap are exact in whatever order."""
    x = jnp.asarray(np.random.default_rng(0).integers(-levels, levels, shape), dtype)
    pool = functools.partial(max_pool_3x3, padding=padding)
    plain_pool = lambda x: nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((padding, padding),) * 2)  # noqa: E731

    @functools.partial(jax.jit, static_argnums=0)
    def run(pool, x):
        y, pullback = jax.vjp(pool, x)
        return y, pullback(jnp.arange(y.size, dtype=dtype).reshape(y.shape) % 8)[0]

    for actual, expected in zip(run(pool, x), run(plain_pool, x), strict=True):
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == expected.dtype


def test_max_pool_under_vmap_and_jit():
    x = jnp.maximum(normal(0, 3, 2, 5, 6, 4), 0)
    y, dx = jax.vmap(lambda x: pool_gradients(max_pool_2x2, x))(x)
    for i in range(3):
        expected = pool_gradients(nnx_pool, x[i])
        np.testing.assert_array_equal(y[i], expected[0])
        np.testing.assert_array_equal(dx[i], expected[1])


def test_max_pool_picks_the_first_of_equal_values():
    x = jnp.array([[1.0, 2.0], [2.0, 2.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: max_pool_2x2(x).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(2, 2), [[0, 1], [0, 0]])


def test_max_pool_3x3_ignores_its_border():
    x = -1 - jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool_3x3(x)[0, :, :, 0], [[-1, -2], [-5, -6]])
