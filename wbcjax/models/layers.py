"""Layers shared by every model: convolution and pooling that are fast on a CPU too, and numerically the plain ones.

XLA's CPU backend computes the kernel gradient of a convolution, and the gradient of max pooling, far slower than the
forward pass. Here both have their own reverse rule: the same sums in another order. On accelerators the plain
operations are used, and forward-mode differentiation works there.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

MIN_CHANNEL_PRODUCT = 500
"""Input channels times output channels from which the tap-wise kernel gradient pays (measured on two x86 cores)."""

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _padding(padding: str | Sequence[tuple[int, int]], x_shape, kernel_shape, strides) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(x_shape[1:3], kernel_shape[:2], strides, padding))
    return tuple(tuple(p) for p in padding)


def _lax_conv(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _tap_conv(x, kernel, strides, padding):
    return _lax_conv(x, kernel, strides, padding)


def _tap_conv_forward(x, kernel, strides, padding):
    return _lax_conv(x, kernel, strides, padding), (x, kernel)


def _tap_conv_backward(strides, padding, residuals, g):
    """Input gradient by lax; kernel gradient as one matrix product per kernel tap."""
    x, kernel = residuals
    _, pullback = jax.vjp(lambda x: _lax_conv(x, kernel, strides, padding), x)
    (dx,) = pullback(g)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = g.shape[1:3]
    g_rows = g.reshape(-1, g.shape[3])
    taps = []
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            window = lax.slice(
                padded,
                (0, i, j, 0),
                (x.shape[0], i + (height - 1) * strides[0] + 1, j + (width - 1) * strides[1] + 1, x.shape[3]),
                (1, *strides, 1),
            )
            taps.append(window.reshape(-1, x.shape[3]).T @ g_rows)
    return dx, jnp.stack(taps).reshape(kernel.shape)


_tap_conv.defvjp(_tap_conv_forward, _tap_conv_backward)


def conv2d(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    strides: tuple[int, int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> Float[Array, "b h2 w2 o"]:
    """Two-dimensional convolution (cross-correlation, as everywhere in deep learning).

    Values and gradients are those of ``lax.conv_general_dilated`` to float32 rounding. On a CPU, layers with at least
    ``MIN_CHANNEL_PRODUCT`` channel pairs use a kernel gradient that is one and a half to three times faster; it has no
    forward-mode derivative.
    """
    padding = _padding(padding, x.shape, kernel.shape, strides)
    if jax.default_backend() == "cpu" and kernel.shape[2] * kernel.shape[3] >= MIN_CHANNEL_PRODUCT:
        return _tap_conv(x, kernel, tuple(strides), padding)
    return _lax_conv(x, kernel, strides, padding)


def _windows(x):
    """The four members of each 2×2 window, in reading order; an odd last row or column is left out."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


@jax.custom_vjp
def _max_pool_2x2(x):
    return functools.reduce(jnp.maximum, _windows(x))


def _max_pool_forward(x):
    y = _max_pool_2x2(x)
    return y, (x, y)


def _max_pool_backward(residuals, g):
    """The whole gradient goes to the first maximum in reading order, as select-and-scatter sends it."""
    x, y = residuals
    taken = jnp.zeros(y.shape, bool)
    parts = []
    for member in _windows(x):
        first = (member == y) & ~taken
        taken |= first
        parts.append(jnp.where(first, g, 0))
    b, h, w, c = g.shape
    dx = jnp.stack(parts, axis=3).reshape(b, h, w, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c)
    return (jnp.pad(dx, ((0, 0), (0, x.shape[1] - 2 * h), (0, x.shape[2] - 2 * w), (0, 0))),)


_max_pool_2x2.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Max pooling over 2×2 windows with stride 2; an odd last row or column is dropped.

    Values and gradients, ties included, are bit-equal to ``nnx.max_pool(x, (2, 2), (2, 2))``.
    """
    return _max_pool_2x2(x) if jax.default_backend() == "cpu" else nnx.max_pool(x, (2, 2), strides=(2, 2))


class Conv(nnx.Module):
    """Convolution with a bias: float32 parameters, computed in ``dtype``."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: str | Sequence[tuple[int, int]] = "SAME",
        use_bias: bool = True,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_features, out_features)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None
        self.strides = (stride, stride)
        self.padding = padding
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        y = conv2d(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.strides, self.padding)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)
