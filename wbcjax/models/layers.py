"""Layers shared by every model: convolution and pooling that are fast on a CPU too, and numerically the plain ones.

XLA's CPU backend is slow at convolutions of few channels (the first layer of every network) or of images smaller than
the kernel, at the kernel gradient of a convolution and at the gradient of max pooling. Here these have their own rules:
the same sums in another order. On accelerators the plain operations are used, and forward-mode differentiation works
there; but a GPU that is told to compute the same bits every time (launch/README.md) pools as a CPU does.
"""

import functools
import os
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from wbcjax.ops.shares import on_shares, sum_over_images

FEW_CHANNELS = 8
"""A convolution from or to at most this many channels computes several neighbouring pixels as one wide pixel."""
WIDE_CHANNELS = 48
"""So many channels a wide pixel has at least: the CPU's matrix kernels run full from there."""
CHUNK_ELEMENTS = 2**17
"""The kernel gradient is summed over chunks of images with at most this many input values, which stay in the cache."""
MANY_CHANNELS, LARGE_GRADIENT = 128, 2**16
"""From so many output channels, and output values an image, a kernel gradient is a sum of matrix products."""

LARGE_MAP, STRIP_ROWS = 3000, 14
"""From so many output pixels an image with few enough channels is cut, into strips of at most so many rows."""

HE_NORMAL = nnx.initializers.he_normal()
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _padding(padding: str | Sequence[tuple[int, int]], x_shape, kernel_shape, strides) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(x_shape[1:3], kernel_shape[:2], strides, padding))
    return tuple(tuple(p) for p in padding)


def _lax_conv(x, kernel, strides, padding, rhs_dilation=(1, 1)):
    return lax.conv_general_dilated(x, kernel, strides, padding, (1, 1), rhs_dilation, _DIMENSIONS)


def _cpu_lax_conv(x, kernel, strides, padding):
    """The same values: without any border XLA takes a path that is up to twice as slow, so one output too many is
    computed in each row."""
    if any(n for side in padding for n in side):
        return _lax_conv(x, kernel, strides, padding)
    width = (x.shape[2] - kernel.shape[1]) // strides[1] + 1
    return _lax_conv(x, kernel, strides, ((0, 0), (0, strides[1])))[:, :, :width]


def _pad(x, padding):
    """Zeros around the images; negative numbers crop."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)))


def _patch_conv(x, kernel, padding):
    """Convolution with stride 1 as one matrix product of all windows."""
    kh, kw, inputs, outputs = kernel.shape
    x = _pad(x, padding)
    height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    windows = [x[:, i : i + height, j : j + width] for i in range(kh) for j in range(kw)]
    return jnp.concatenate(windows, axis=3) @ kernel.reshape(kh * kw * inputs, outputs)


def _wide_conv(x, kernel, padding):
    """Convolution with stride 1 in which ``block`` neighbouring outputs come from one wider window.

    The wide kernel holds the kernel ``block`` times, each moved by one column, and zeros; the wide output is the
    narrow one in memory, so nothing is rearranged.
    """
    kh, kw, inputs, outputs = kernel.shape
    block = 1
    while block * outputs < WIDE_CHANNELS:
        block *= 2
    width = x.shape[2] + sum(padding[1]) - kw + 1
    blocks = -(-width // block)
    moved = [jnp.pad(kernel, ((0, 0), (j, block - 1 - j), (0, 0), (0, 0))) for j in range(block)]
    wide = jnp.stack(moved, axis=3).reshape(kh, kw + block - 1, inputs, block * outputs)
    left, right = padding[1]
    y = _lax_conv(x, wide, (1, block), (padding[0], (left, right + blocks * block - width)))
    return y.reshape(*y.shape[:2], blocks * block, outputs)[:, :, :width]


def _stride_1_conv(x, kernel, padding):
    kh, kw, inputs, outputs = kernel.shape
    if x.shape[1] < kh or x.shape[2] < kw:
        return _patch_conv(x, kernel, padding)
    if min(inputs, outputs) <= FEW_CHANNELS and outputs < WIDE_CHANNELS:
        return _wide_conv(x, kernel, padding)
    return _cpu_lax_conv(x, kernel, (1, 1), padding)


def _pixel_conv(x, kernel, strides):
    """1×1 convolution as a matrix product, whose gradients are such products too.

    At 64 to 512 channels the kernel gradient of the convolution takes 3 to 20 times as long as that of the product.
    """
    x = x[:, :: strides[0], :: strides[1]]
    return (x.reshape(-1, x.shape[3]) @ kernel[0, 0]).reshape(*x.shape[:3], kernel.shape[3])


def _kernel_gradient(x, g, kernel_shape, strides, padding):
    """By one of three rules, chosen by measurement: the convolution is slow where its kernels, which are the output
    gradients, are large or flat or, with a stride, have holes; those of a large map are cut into strips."""
    (kh, kw, inputs, outputs), (height, width) = kernel_shape, g.shape[1:3]
    few = inputs <= FEW_CHANNELS
    large = outputs >= MANY_CHANNELS and height * width * outputs >= LARGE_GRADIENT
    flat = min(kh, kw) == 1 and not few
    # What the kernel saw of the padded images: with a stride it may leave the last rows and columns out.
    rows, columns = (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1
    border = tuple((low, n + k - 1 - size - low)
                   for n, k, size, (low, _) in zip((rows, columns), (kh, kw), x.shape[1:3], padding, strict=True))

    def products(x, g):
        """For each tap of the kernel, that of the inputs which it saw and the output gradients."""
        x, g = _pad(x, border), g.reshape(-1, outputs)
        windows = [x[:, i : i + rows : strides[0], j : j + columns : strides[1]] for i in range(kh) for j in range(kw)]
        return jnp.stack([window.reshape(-1, inputs).T @ g for window in windows])

    def convolution(x, g):
        if few:  # measured: in the convolution itself the border is slow then
            return _gradient_conv(_pad(x, border), g, strides=strides)
        return _gradient_conv(x, g, border, strides)

    long = height * width >= LARGE_MAP and x.size > CHUNK_ELEMENTS * x.shape[0]
    if long and strides == (1, 1) and not few and outputs <= MANY_CHANNELS:
        return _sum_over_chunks(lambda x, g: _strip_gradient(x, g, border, kh), x, g).transpose(1, 2, 0, 3)
    if large or flat or (strides != (1, 1) and not few):
        return _sum_over_chunks(products, x, g).reshape(kernel_shape)
    return _sum_over_chunks(convolution, x, g).transpose(1, 2, 0, 3)


def _gradient_conv(x, g, border=((0, 0), (0, 0)), strides=(1, 1)):
    """Convolution of the input channels, as images, with the output gradients, as kernels."""
    return _lax_conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), border, rhs_dilation=strides)


def _strip_gradient(x, g, border, kernel_height):
    """The same with stride 1, summed over strips of rows, which overlap in the inputs; zeros fill the last one."""
    batch, height, width, outputs = g.shape
    strips = -(-height // STRIP_ROWS)
    rows = -(-height // strips)
    (top, bottom), missing = border[0], strips * rows - height
    x = _pad(x, ((top, bottom + missing), border[1]))
    x = jnp.stack([x[:, i * rows : (i + 1) * rows + kernel_height - 1] for i in range(strips)])
    g = _pad(g, ((0, missing), (0, 0))).reshape(batch, strips, rows, width, outputs).swapaxes(0, 1)
    zeros = jnp.zeros(jax.eval_shape(_gradient_conv, x[0], g[0]).shape, jnp.float32)
    return lax.scan(lambda total, strip: (total + _gradient_conv(*strip), None), zeros, (x, g))[0]


def _sum_over_chunks(part, x, g):
    """Sum of ``part`` over chunks of images."""
    batch = x.shape[0]
    most = min(batch, max(1, CHUNK_ELEMENTS * batch // max(x.size, 1)))
    chunk = max((n for n in range(1, most + 1) if batch % n == 0), default=1)
    chunks = [a.reshape(batch // chunk, chunk, *a.shape[1:]) for a in (x, g)]
    zeros = jnp.zeros(jax.eval_shape(part, x, g).shape, jnp.float32)
    total, _ = lax.scan(lambda total, images: (total + part(*images), None), zeros, chunks)
    return total.astype(x.dtype)


def _input_gradient(x, kernel, g, strides, padding):
    """With stride 1 a convolution with the turned kernel."""
    if strides != (1, 1):
        return jax.linear_transpose(lambda x: _lax_conv(x, kernel, strides, padding), x)(g)[0]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    back = tuple((n - 1 - low, n - 1 - high) for n, (low, high) in zip(kernel.shape[:2], padding, strict=True))
    return _stride_1_conv(g, turned, back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cpu_conv(x, kernel, strides, padding):
    return _stride_1_conv(x, kernel, padding) if strides == (1, 1) else _cpu_lax_conv(x, kernel, strides, padding)


def _cpu_conv_forward(x, kernel, strides, padding):
    return _cpu_conv(x, kernel, strides, padding), (x, kernel)


def _cpu_conv_backward(strides, padding, residuals, g):
    x, kernel = residuals
    of_kernel = sum_over_images(lambda x, g: _kernel_gradient(x, g, kernel.shape, strides, padding), x, g)
    return _input_gradient(x, kernel, g, strides, padding), of_kernel


_cpu_conv.defvjp(_cpu_conv_forward, _cpu_conv_backward)


def conv2d(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    strides: tuple[int, int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> Float[Array, "b h2 w2 o"]:
    """Two-dimensional convolution (cross-correlation, as everywhere in deep learning).

    Values and gradients are those of ``lax.conv_general_dilated`` to float32 rounding. On a CPU a 1×1 kernel is a
    matrix product; larger ones with stride 1 are computed two to five times faster where channels are few, and the
    kernel gradient of all up to five times faster, without a forward-mode derivative.
    """
    strides, padding = tuple(strides), _padding(padding, x.shape, kernel.shape, strides)
    if jax.default_backend() != "cpu":
        return on_shares(lambda x, kernel: _lax_conv(x, kernel, strides, padding), x, kernel)
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return _pixel_conv(x, kernel, strides)
    return _cpu_conv(x, kernel, strides, padding)


def _pools_by_own_rule() -> bool:
    """On a CPU, where it is faster; and where XLA may use no operation whose sums come in any order: it then refuses
    select-and-scatter, the gradient of its own max pooling."""
    deterministic = r"--xla_gpu_(deterministic_ops|exclude_nondeterministic_ops)(=(true|1))?(\s|$)"
    return jax.default_backend() == "cpu" or re.search(deterministic, os.environ.get("XLA_FLAGS", "")) is not None


def _windows(x):
    """The four members of each 2×2 window, in reading order."""
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


@jax.custom_vjp
def _max_pool_2x2(x):
    return functools.reduce(jnp.maximum, _windows(x))


def _max_pool_forward(x):
    y = _max_pool_2x2(x)
    first, second, third, _ = (member == y for member in _windows(x))
    # Which member is the first maximum: all that the gradient needs, in a sixteenth of the memory of x.
    return y, jnp.where(first, 0, jnp.where(second, 1, jnp.where(third, 2, 3))).astype(jnp.int8)


def _max_pool_backward(which, g):
    """The whole gradient goes to the first maximum in reading order, as select-and-scatter sends it."""
    b, h, w, c = g.shape
    members = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
    dx = jnp.where(which[:, :, None, :, None] == members, g[:, :, None, :, None], jnp.zeros((), g.dtype))
    return (dx.reshape(b, 2 * h, 2 * w, c),)


_max_pool_2x2.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Max pooling over 2×2 windows with stride 2; an odd last row or column is dropped.

    Values and gradients, ties included, are bit-equal to ``nnx.max_pool(x, (2, 2), (2, 2))``.
    """
    if not _pools_by_own_rule():
        return nnx.max_pool(x, (2, 2), strides=(2, 2))
    return _max_pool_2x2(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])


def _valid_max_pool_3x3(x):
    return nnx.max_pool(x, (3, 3), strides=(2, 2))


_max_pool_3x3 = jax.custom_vjp(_valid_max_pool_3x3)


def _max_pool_3x3_forward(x):
    y = _valid_max_pool_3x3(x)
    height, width = (2 * n for n in y.shape[1:3])
    which = jnp.full(y.shape, 8, jnp.int8)
    for member in reversed(range(8)):  # the first maximum in reading order, as for 2×2 windows
        i, j = divmod(member, 3)
        which = jnp.where(x[:, i : i + height : 2, j : j + width : 2] == y, jnp.int8(member), which)
    return y, which


def _max_pool_3x3_backward(which, g):
    """A row with an even number is the first of one window and the last of another, an odd one is within one window;
    so are the columns. Each of the four kinds of pixels gets the sum over its windows."""
    b, h, w, c = g.shape

    def from_window(i, j):
        share = jnp.where(which == 3 * i + j, g, jnp.zeros((), g.dtype))
        return jnp.pad(share, ((0, 0), (i // 2, 1 - i // 2), (j // 2, 1 - j // 2), (0, 0)))

    def kind(row, column):
        return sum(from_window(i, j) for i in range(row, 3, 2) for j in range(column, 3, 2))

    dx = jnp.stack([jnp.stack([kind(row, 0), kind(row, 1)], axis=3) for row in (0, 1)], axis=2)
    return (dx.reshape(b, 2 * h + 2, 2 * w + 2, c)[:, : 2 * h + 1, : 2 * w + 1],)


_max_pool_3x3.defvjp(_max_pool_3x3_forward, _max_pool_3x3_backward)


def max_pool_3x3(x: Float[Array, "b h w c"], padding: int = 1) -> Float[Array, "b h2 w2 c"]:
    """Max pooling over 3×3 windows with stride 2, with pixels of padding, 1 or 0, that are never the maximum."""
    if not _pools_by_own_rule():
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((padding, padding),) * 2)
    # The windows cover an odd number of pixels: of an even number the last is left out.
    height, width = ((padding, padding - 1 + n % 2, 0) for n in x.shape[1:3])
    return _max_pool_3x3(lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), height, width, (0, 0, 0))))


class Conv(nnx.Module):
    """Convolution with a bias: float32 parameters, computed in ``dtype``."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        padding: str | Sequence[tuple[int, int]] = "SAME",
        use_bias: bool = True,
        kernel_init: Callable = HE_NORMAL,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self.kernel = nnx.Param(kernel_init(rngs.params(), (*size, in_features, out_features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None
        self.strides = (stride, stride)
        self.padding = padding
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        y = conv2d(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.strides, self.padding)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)
