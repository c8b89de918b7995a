"""Schedules and optimisers by their values."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.config import OptimConfig
from wbcjax.errors import ConfigError
from wbcjax.training.optim import make_optimizer, make_schedule, stage_rates

PLAIN = OptimConfig(name="sgd", learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.0, clip_norm=None)


def rates(config, steps, at):
    schedule = make_schedule(config, steps)
    return [float(schedule(k)) for k in at]


def updates_of(config, gradients, params, steps=10, **options):
    """The parameters after each gradient."""
    optimizer = make_optimizer(config, steps, **options)
    opt_state = optimizer.init(params)
    out = []
    for gradient in gradients:
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        out.append(params)
    return out


def test_cosine_rises_to_the_rate_and_falls_to_zero():
    config = OptimConfig(learning_rate=0.4, schedule="cosine", warmup=0.2)
    np.testing.assert_allclose(rates(config, 10, [0, 1, 2, 6, 10]), [0, 0.2, 0.4, 0.2, 0], atol=1e-7)
    half = 0.2 * (1 + np.cos(np.pi / 8))
    np.testing.assert_allclose(rates(config, 10, [3]), [half], rtol=1e-6)


def test_constant_rises_and_stays():
    config = OptimConfig(learning_rate=0.4, schedule="constant", warmup=0.2)
    np.testing.assert_allclose(rates(config, 10, [0, 1, 2, 3, 10]), [0, 0.2, 0.4, 0.4, 0.4], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_without_warmup_the_first_rate_is_the_rate(schedule, steps):
    assert rates(OptimConfig(learning_rate=0.4, schedule=schedule, warmup=0.0), steps, [0]) == [pytest.approx(0.4)]


@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_finite_rates(warmup, steps):
    values = rates(OptimConfig(learning_rate=0.4, warmup=warmup), steps, range(steps + 1))
    assert np.isfinite(values).all()
    assert min(values) >= 0


def test_the_schedule_counts_updates_not_batches():
    config = OptimConfig(learning_rate=0.4, schedule="cosine", warmup=0.0, accumulate=4)
    np.testing.assert_allclose(rates(config, 40, [0, 5, 10]), [0.4, 0.2, 0], atol=1e-7)
    np.testing.assert_allclose(rates(config, 37, [10]), [0], atol=1e-7)  # a last, smaller group is an update of its own


def test_sgd_is_nesterov_momentum():
    """Sutskever et al. 2013: v = 0.9 v + g; step = rate (g + 0.9 v)."""
    one = {"w": jnp.ones((1, 1))}
    first, second = updates_of(PLAIN, [one, one], {"w": jnp.zeros((1, 1))})
    assert first["w"].item() == pytest.approx(-0.1 * (1 + 0.9 * 1))
    assert second["w"].item() == pytest.approx(-0.1 * (1.9 + 1 + 0.9 * 1.9))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_spares_biases_and_scales(name):
    config = replace(PLAIN, name=name, weight_decay=0.5)
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    (after,) = updates_of(config, [jax.tree.map(jnp.zeros_like, params)], params)
    np.testing.assert_array_equal(after["bias"], params["bias"])
    nesterov = 1.9 if name == "sgd" else 1.0
    np.testing.assert_allclose(after["kernel"], 2 - 0.1 * 0.5 * 2 * nesterov, rtol=1e-6)


def test_adam_ignores_weight_decay():
    params = {"kernel": jnp.full((2, 2), 2.0)}
    config = OptimConfig(name="adam", learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.5)
    (after,) = updates_of(config, [jax.tree.map(jnp.zeros_like, params)], params)
    np.testing.assert_array_equal(after["kernel"], params["kernel"])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_first_adam_step_is_the_rate_in_the_sign_of_the_gradient(name):
    config = OptimConfig(name=name, learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.0)
    gradient = {"w": jnp.array([[3.0, -0.02]])}
    (after,) = updates_of(config, [gradient], {"w": jnp.zeros((1, 2))})
    np.testing.assert_allclose(after["w"], [[-0.1, 0.1]], rtol=1e-4)


def test_clipping_scales_the_whole_gradient_to_the_norm():
    gradient = {"a": jnp.array([[3.0]]), "b": jnp.array([4.0])}  # norm 5
    zeros = jax.tree.map(jnp.zeros_like, gradient)
    config = replace(PLAIN, learning_rate=1.0, clip_norm=1.0)
    (clipped,) = updates_of(config, [gradient], zeros)
    np.testing.assert_allclose([clipped["a"].item(), clipped["b"].item()], [-0.6 * 1.9, -0.8 * 1.9], rtol=1e-6)
    (small,) = updates_of(config, [jax.tree.map(lambda g: g / 10, gradient)], zeros)
    np.testing.assert_allclose([small["a"].item(), small["b"].item()], [-0.3 * 1.9, -0.4 * 1.9], rtol=1e-6)


def test_accumulation_averages_batches_before_one_update():
    config = replace(PLAIN, accumulate=2)
    gradients = [{"w": jnp.full((1, 1), g)} for g in (1.0, 3.0, 5.0)]
    first, second, third = updates_of(config, gradients, {"w": jnp.zeros((1, 1))})
    assert first["w"].item() == 0
    assert second["w"].item() == pytest.approx(-0.1 * 1.9 * 2)
    assert third["w"].item() == second["w"].item()


def tree(*values):
    """Four parameters, of two stages whose names begin alike and a head."""
    names = [("backbone", "layer1", "kernel"), ("backbone", "layer1", "bias"), ("backbone", "layer10", "kernel"),
             ("head", 0, "kernel")]
    out = {}
    for (one, two, three), value in zip(names, values, strict=True):
        out.setdefault(one, {}).setdefault(two, {})[three] = jnp.full((1, 1) if three == "kernel" else 1, value)
    return out


def values(params):
    return [params["backbone"]["layer1"]["kernel"].item(), params["backbone"]["layer1"]["bias"].item(),
            params["backbone"]["layer10"]["kernel"].item(), params["head"][0]["kernel"].item()]


def test_a_step_of_sgd_goes_by_the_rate_of_the_longest_beginning():
    """The first step is 0.1 × 1.9 g; layer10 is not below layer1."""
    factors = {"backbone": 0.5, "backbone/layer1": 0.25, "backbone/layer1/bias": 3.0, "nowhere": 2.0}
    (after,) = updates_of(PLAIN, [tree(1.0, 2.0, 3.0, 4.0)], tree(*[0.0] * 4), rates=factors)
    np.testing.assert_allclose(values(after), [-0.19 * 0.25, -0.19 * 2 * 3, -0.19 * 3 * 0.5, -0.19 * 4], rtol=1e-6)


@pytest.mark.parametrize("config", [
    OptimConfig(name="adamw", learning_rate=0.1, weight_decay=0.5, clip_norm=None),
    OptimConfig(name="adamw", learning_rate=0.1, weight_decay=0.5, clip_norm=None, accumulate=2),
    OptimConfig(name="sgd", learning_rate=0.1, weight_decay=0.5, clip_norm=None),
])
def test_a_factor_is_as_two_optimisers_of_two_rates(config):
    """Weight decay scales as the rate does; adam's scale does not."""
    gradients = [tree(*np.random.default_rng(k).normal(size=4).tolist()) for k in range(6)]
    start = tree(1.0, -2.0, 3.0, -4.0)
    whole = updates_of(config, gradients, start, rates={"backbone": 0.1})
    part = lambda trees, name: [t[name] for t in trees]  # noqa: E731
    slow = updates_of(replace(config, learning_rate=0.01), part(gradients, "backbone"), start["backbone"])
    fast = updates_of(config, part(gradients, "head"), start["head"])
    for found, backbone, head in zip(whole, slow, fast, strict=True):
        np.testing.assert_allclose(values(found), values({"backbone": backbone, "head": head}), rtol=1e-5)


def test_clipping_comes_before_the_factors():
    config = replace(PLAIN, learning_rate=1.0, clip_norm=1.0)
    gradient = {"a": jnp.array([[3.0]]), "b": jnp.array([4.0])}  # norm 5
    (after,) = updates_of(config, [gradient], jax.tree.map(jnp.zeros_like, gradient), rates={"a": 0.5})
    np.testing.assert_allclose([after["a"].item(), after["b"].item()], [-0.3 * 1.9, -0.8 * 1.9], rtol=1e-6)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_must_be_a_positive_number(factor):
    with pytest.raises(ConfigError, match=r"rates\['head'\] = .* is impossible: expected > 0; to keep .* freeze them"):
        make_optimizer(PLAIN, 10, {"backbone": 1.0, "head": factor})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_without_factors_the_optimiser_is_as_it_was(accumulate):
    """Checkpoints of before hold a state of this structure."""
    config, params = OptimConfig(accumulate=accumulate), tree(*[1.0] * 4)
    before = jax.tree.structure(make_optimizer(config, 10).init(params))
    assert jax.tree.structure(make_optimizer(config, 10, {}).init(params)) == before
    leaves = lambda rates: [x.shape for x in jax.tree.leaves(make_optimizer(config, 10, rates).init(params))]  # noqa: E731
    assert leaves({"head": 0.5}) == leaves({}), "factors have no state"


def test_each_stage_learns_at_a_share_of_the_rate_of_the_next():
    assert stage_rates(("backbone/conv1", "backbone/layer1", "backbone/layer2"), 0.5) == {
        "backbone/conv1": 0.125, "backbone/layer1": 0.25, "backbone/layer2": 0.5}
    assert stage_rates(("c",), 0.1, prefix="backbone/") == {"backbone/c": 0.1}
    assert stage_rates((), 0.5) == stage_rates(("a", "b"), 1.0) == {}


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_a_decay_is_a_share(decay):
    with pytest.raises(ConfigError, match=r"optim\.stage_decay = .* is impossible: expected 0 < decay <= 1"):
        OptimConfig(stage_decay=decay)
