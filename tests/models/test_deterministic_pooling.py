"""Max pooling on a GPU that is told to compute the same bits every time."""

import jax
import jax.numpy as jnp
import pytest

from wbcjax.models.layers import max_pool_2x2, max_pool_3x3


@pytest.mark.parametrize("pool", [max_pool_2x2, max_pool_3x3])
@pytest.mark.parametrize(("flags", "plain"), [
    ("", True),
    ("--xla_gpu_deterministic_ops=false", True),
    ("--xla_gpu_autotune_level=0", True),
    ("--xla_gpu_deterministic_ops=true", False),
    ("--xla_gpu_autotune_level=0 --xla_gpu_exclude_nondeterministic_ops", False),
    ("--xla_gpu_deterministic_ops=1 --xla_gpu_autotune_level=0", False),
])
def test_no_gradient_takes_select_and_scatter_where_that_is_refused(monkeypatch, pool, flags, plain):
    """The programs that a GPU would be given, made without one."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", flags)
    traced = jax.jit(jax.grad(lambda x: pool(x).sum())).trace(jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32))
    assert ("select_and_scatter" in traced.lower(lowering_platforms=("cuda",)).as_text()) == plain
