"""The arithmetic of a traced function, counted in its jaxpr: matrix products and convolutions.

XLA's own count (``cost_analysis``) is not used: it takes the body of a loop once however often it runs, misses what a
GPU leaves to libraries by custom calls, and is that of one device's part of the program.
"""

import functools
import math
import operator
from collections import Counter
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr

OPAQUE = {"ffi_call", "io_callback", "pallas_call", "pure_callback", "shard_map"}
"""Primitives whose work cannot be seen, or is that of one device."""


class _UnknownError(Exception):
    pass


def count_flops(jaxpr: ClosedJaxpr) -> dict[str, int] | None:
    """Floating-point operations by the type of the numbers multiplied; a product with its addition counts two.

    Products with padding, with the zeros between dilated inputs, and those that no result depends on (the gradient of
    the images, say) are left out, and so is elementwise work.

    Returns:
      None where the count depends on values (a product in a ``while`` loop) or on code that cannot be seen (kernels,
      custom calls, callbacks). Of branches the least work is counted.
    """
    needed, _ = dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.out_avals))
    try:
        return dict(_count(needed))
    except _UnknownError:
        return None


def _count(jaxpr: Jaxpr) -> Counter:
    return sum(map(_count_equation, jaxpr.eqns), Counter())


def _count_equation(equation: JaxprEqn) -> Counter:
    name, params = equation.primitive.name, equation.params
    if name in OPAQUE:
        raise _UnknownError
    if name == "dot_general":
        return _of_type(equation, _dot(equation))
    if name == "conv_general_dilated":
        return _of_type(equation, _convolution(equation))
    parts = [_count(inner) for value in params.values() for inner in _jaxprs(value)]
    if name == "cond":  # the networks have none; where augmentation branches, its own work is not to count
        return functools.reduce(operator.and_, parts)
    total = sum(parts, Counter())
    if name == "while" and total:
        raise _UnknownError
    times = params["length"] if name == "scan" else 1
    return Counter({kind: count * times for kind, count in total.items()})


def _jaxprs(value: Any) -> list[Jaxpr]:
    """Those in a parameter of a primitive."""
    values = value if isinstance(value, tuple | list) else (value,)
    return [v.jaxpr if isinstance(v, ClosedJaxpr) else v for v in values if isinstance(v, ClosedJaxpr | Jaxpr)]


def _of_type(equation: JaxprEqn, count: int) -> Counter:
    return Counter({equation.invars[0].aval.dtype.name: count})


def _dot(equation: JaxprEqn) -> int:
    contracted = equation.params["dimension_numbers"][0][0]
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    """Axis by axis, the pairs of output and kernel position that meet an input."""
    params = equation.params
    images, kernel, out = (v.aval.shape for v in (*equation.invars, *equation.outvars))
    axes = params["dimension_numbers"]
    pairs = 1
    for axis, (of_images, of_kernel, of_out) in enumerate(
        zip(axes.lhs_spec[2:], axes.rhs_spec[2:], axes.out_spec[2:], strict=True)
    ):
        spread = params["lhs_dilation"][axis]
        position = (np.arange(out[of_out])[:, None] * params["window_strides"][axis]
                    + np.arange(kernel[of_kernel]) * params["rhs_dilation"][axis] - params["padding"][axis][0])
        meets = (position >= 0) & (position <= (images[of_images] - 1) * spread) & (position % spread == 0)
        pairs *= int(meets.sum())
    return 2 * pairs * out[axes.out_spec[0]] * out[axes.out_spec[1]] * kernel[axes.rhs_spec[1]]
