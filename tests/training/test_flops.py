"""The arithmetic in a jaxpr: by hand, by XLA's count where there is no loop, and what cannot be known."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from wbcjax.training.compilation import CompiledStep
from wbcjax.training.flops import count_flops
from wbcjax.training.meters import Throughput

X, K = jnp.ones((2, 9, 7, 4)), jnp.ones((3, 3, 4, 8))
AXES = ("NHWC", "HWIO", "NHWC")


def count(function, *args):
    return count_flops(jax.make_jaxpr(function)(*args))


def xla(function, *args):
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


def test_products_by_hand():
    a, b = jnp.ones((5, 3, 4)), jnp.ones((5, 4, 6), jnp.bfloat16)
    assert count(jnp.matmul, a, a.mT) == {"float32": 2 * 5 * 3 * 4 * 3}
    assert count(jnp.matmul, b.mT, b) == {"bfloat16": 2 * 5 * 6 * 4 * 6}
    assert count(lambda a: a + jnp.sin(a), a) == {}


@pytest.mark.parametrize("options", [
    {"padding": "VALID"},
    {"padding": "SAME"},
    {"padding": "SAME", "window_strides": (2, 3)},
    {"padding": ((2, 1), (0, 4)), "rhs_dilation": (2, 1)},
    {"padding": ((1, 1), (2, 0)), "lhs_dilation": (2, 3)},
])
def test_convolutions_are_counted_as_xla_does(options):
    """Padding and the zeros between dilated inputs are no work; the gradients are convolutions too."""
    options = {"window_strides": (1, 1), "dimension_numbers": AXES, **options}
    forward = lambda x, k: lax.conv_general_dilated(x, k, **options)  # noqa: E731
    assert count(forward, X, K) == {"float32": xla(forward, X, K)}
    out, back = jax.vjp(forward, X, K)
    for of in (0, 1):  # what computes the other one is dead code
        function = lambda g: back(g)[of]  # noqa: B023, E731
        assert count(function, out)["float32"] == pytest.approx(xla(function, out), rel=0.02)


def test_grouped_convolutions():
    forward = lambda x, k: lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=AXES, feature_group_count=4)
    kernel = jnp.ones((3, 3, 1, 8))
    assert count(forward, X, kernel) == {"float32": xla(forward, X, kernel)}


def test_what_is_repeated_counts_as_often():
    a = jnp.ones((4, 4))
    one = count(jnp.matmul, a, a)["float32"]
    loop = lambda a: lax.scan(lambda c, _: (c @ a, None), a, length=7)[0]  # noqa: E731
    assert count(jax.jit(loop), a) == {"float32": 7 * one}
    assert count(jax.vmap(loop), jnp.ones((3, 4, 4))) == {"float32": 3 * 7 * one}
    assert count(jax.checkpoint(loop), a) == {"float32": 7 * one}
    assert count(lambda a: lax.cond(a[0, 0] > 0, lambda: a @ a, lambda: a.T @ a), a) == {"float32": one}
    assert count(lambda a: lax.cond(a[0, 0] > 0, lambda: a @ a, lambda: a), a) == {}


@pytest.mark.parametrize("function", [
    lambda a: lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ a, a),
    lambda a: jax.pure_callback(lambda a: a, a, a) @ a,
])
def test_what_depends_on_values_is_unknown(function):
    assert count(function, jnp.ones((4, 4))) is None


def test_a_loop_without_products_is_nothing():
    assert count(lambda a: lax.while_loop(lambda c: c[0] < 9, lambda c: c + 1, a), jnp.ones(3)) == {}


@pytest.mark.parametrize(("flops", "expected"), [
    ({"float32": 5 * 10**12}, {"flops_per_second": 5e12, "peak_share": 0.5}),
    ({"bfloat16": 5 * 10**12, "float32": 5 * 10**12}, {"flops_per_second": 10e12, "peak_share": 0.75}),
    ({"float64": 3 * 10**9, "float32": 10**9}, {"flops_per_second": 4e9}),
    (None, {}),
    ({}, {}),
])
def test_a_reading_has_what_is_known(monkeypatch, flops, expected):
    """Four steps in four seconds, of which the input takes one; then two at half the speed."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    throughput = Throughput(8, {"float32": 1e13, "bfloat16": 2e13}.get)
    assert throughput.overall() == {}
    now[0] = 5.0
    throughput.compiled(CompiledStep(lambda *args: args, 4.5, flops))

    def stream():
        while True:
            now[0] += 0.25
            yield "batch"

    batches = stream()
    for _ in range(4):
        assert throughput.next(batches) == "batch"
        throughput.count()
        now[0] += 0.75
    assert throughput.read() == {"compile_seconds": 4.5, "images_per_second": 8.0, "input_wait": 0.25,
                                 **{name: pytest.approx(value) for name, value in expected.items()}}
    assert throughput.read() == {}
    for _ in range(2):
        throughput.count()
        now[0] += 2
    assert throughput.read()["images_per_second"] == 4
    assert throughput.overall() == {"compile_seconds": 4.5, "images_per_second": 6.0, "input_wait": 0.125,
                                    **{name: pytest.approx(value * 0.75) for name, value in expected.items()}}
