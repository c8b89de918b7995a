"""One step: what it computes, its moving average, accumulation, mixed precision."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import NO_AUGMENT, ModelConfig, OptimConfig, TrainConfig
from wbcjax.errors import ConfigError
from wbcjax.models import build
from wbcjax.training import classification_loss, merge, split
from wbcjax.training.optim import make_optimizer
from wbcjax.training.state import check_paths, eval_weights, init_state, join, make_step, partition, step_function

TRAIN = TrainConfig(label_smoothing=0.0, mixup=0.0)
PLAIN = OptimConfig(name="sgd", learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.0, clip_norm=None,
                    ema_decay=None, accumulate=1)


class Line(nnx.Module):
    """y = w x, with a count of the calls as a batch statistic."""

    def __init__(self):
        self.w = nnx.Param(jnp.ones((1, 1)))
        self.calls = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1
        return x @ self.w[...]


def squares(model, resident, batch, key):
    """Mean of (w x)²: gradient 2 w mean(x²)."""
    return (model(batch["x"]) ** 2).mean(), {"draw": jax.random.uniform(key)}


class Layers(nnx.Module):
    """x times eleven weights and an offset in a chain: ``layers/1`` and ``layers/10`` begin alike."""

    def __init__(self):
        self.layers = nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(i)) for i in range(11)])
        self.head = nnx.Linear(1, 1, rngs=nnx.Rngs(11))

    def __call__(self, x):
        for layer in [*self.layers, self.head]:
            x = layer(x) + 0.1
        return x


def steps(model, config, loss_fn, batches, seed=0, frozen=()):
    """All states, from the first, and the metrics of each step."""
    optimizer = make_optimizer(config, 100)
    state = init_state(model, optimizer, config, seed, frozen)
    step = make_step(split(model)[0], optimizer, loss_fn, config, frozen)
    states, metrics = [jax.tree.map(jnp.copy, state)], []
    for batch in batches:
        state, values = step(state, {}, batch)
        states.append(jax.tree.map(jnp.copy, state))
        metrics.append({name: float(value) for name, value in values.items()})
    return states, metrics


def batch(*x):
    return {"x": jnp.array(x)[:, None]}


def weights(states):
    return [float(state["params"]["w"][0, 0]) for state in states]


def test_one_step_by_hand():
    states, (first, second) = steps(Line(), PLAIN, squares, [batch(1.0, 2.0), batch(0.0)])
    assert first["loss"] == pytest.approx(2.5)
    assert first["gradient_norm"] == pytest.approx(5)
    assert weights(states)[1] == pytest.approx(1 - 0.1 * 1.9 * 5)
    assert first["parameter_norm"] == pytest.approx(abs(weights(states)[1]))
    assert second["loss"] == 0
    assert [int(s["step"]) for s in states] == [0, 1, 2]
    assert [float(s["stats"]["calls"]) for s in states] == [0, 1, 2]


def test_each_step_has_a_key_of_its_own_and_the_seed_decides():
    draws = [m["draw"] for m in steps(Line(), PLAIN, squares, [batch(1.0)] * 3)[1]]
    assert len(set(draws)) == 3
    assert draws == [m["draw"] for m in steps(Line(), PLAIN, squares, [batch(1.0)] * 3)[1]]
    assert draws != [m["draw"] for m in steps(Line(), PLAIN, squares, [batch(1.0)] * 3, seed=1)[1]]


def test_moving_average_by_its_formula():
    """With decay min(0.3, (1 + k) / (10 + k)) at update k: 0.1, 2/11, 0.25, 0.3."""
    states, _ = steps(Line(), replace(PLAIN, ema_decay=0.3), squares, [batch(1.0)] * 4)
    average = 1.0
    for k, decay in enumerate([0.1, 2 / 11, 0.25, 0.3]):
        average = decay * average + (1 - decay) * weights(states)[k + 1]
        assert float(states[k + 1]["ema"]["params"]["w"][0, 0]) == pytest.approx(average, rel=1e-5)
    params, stats = eval_weights(states[-1])
    assert params is states[-1]["ema"]["params"]
    assert 3 < float(stats["calls"]) < 4


def test_without_a_moving_average_the_parameters_are_evaluated():
    (state, _), _ = steps(Line(), PLAIN, squares, [batch(1.0)])
    assert state["ema"] == {}
    assert eval_weights(state)[0] is state["params"]


def test_the_moving_average_counts_updates_not_batches():
    config = replace(PLAIN, ema_decay=0.3)
    one, _ = steps(Line(), config, squares, [batch(1.0, 2.0)] * 3)
    two, _ = steps(Line(), replace(config, accumulate=2), squares, [batch(1.0), batch(2.0)] * 3)
    averages = [[float(s["ema"]["params"]["w"][0, 0]) for s in states] for states in (one, two)]
    np.testing.assert_allclose(averages[1][::2], averages[0], rtol=1e-6)
    assert averages[1][1] == averages[1][0]


def test_two_accumulated_batches_are_one_of_twice_the_size():
    """On a network without batch norm or dropout, to float32 rounding."""
    rng = np.random.default_rng(0)
    data = {"image": rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8), "label": np.arange(8, dtype=np.int32) % 4}
    data = jax.tree.map(jnp.asarray, data)
    halves = [jax.tree.map(lambda x: x[:4], data), jax.tree.map(lambda x: x[4:], data)]
    model = build(ModelConfig(name="lenet", image_size=(16, 16)))
    loss_fn = classification_loss(NO_AUGMENT, TRAIN, num_classes=4)
    config = replace(PLAIN, clip_norm=0.5, weight_decay=0.01)
    one, _ = steps(model, config, loss_fn, [data] * 2)
    two, _ = steps(model, replace(config, accumulate=2), loss_fn, halves * 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), two[-1]["params"], one[-1]["params"])
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one[0]["params"], one[-1]["params"])
    assert min(jax.tree.leaves(moved)) > 1e-5


def test_half_precision_keeps_float32_parameters_and_loss_and_trains():
    rng = np.random.default_rng(0)
    labels = np.arange(8) % 4
    images = (rng.random((8, 16, 16, 3)) * 60 + 60 * labels[:, None, None, None]).astype(np.uint8)
    data = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    model = build(ModelConfig(name="lenet", image_size=(16, 16), dtype="bfloat16"))
    optim = OptimConfig(learning_rate=3e-3, schedule="constant", ema_decay=0.9)
    loss_fn = classification_loss(NO_AUGMENT, TRAIN, num_classes=4)
    states, metrics = steps(model, optim, loss_fn, [data] * 60)
    float_types = {leaf.dtype for leaf in jax.tree.leaves((states[-1]["params"], states[-1]["ema"]))}
    assert float_types == {jnp.dtype("float32")}
    loss = jax.eval_shape(lambda: loss_fn(merge(*split(model), training=True), {}, data, jax.random.key(0))[0])
    assert loss.dtype == jnp.float32
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]


def test_splitting_and_merging_is_the_identity():
    model = build(ModelConfig(name="custom2", image_size=(32, 32)))
    graphdef, params, stats = split(model)
    again = split(merge(graphdef, params, stats, training=False))
    assert jax.tree.structure((params, stats)) == jax.tree.structure(again[1:])
    jax.tree.map(np.testing.assert_array_equal, (params, stats), again[1:])
    assert {type(leaf) for leaf in jax.tree.leaves((params, stats))} == {type(jnp.zeros(1))}


def test_partition_goes_by_whole_components_and_join_undoes_it():
    params = split(Layers())[1]
    trained, fixed = partition(params, ("layers/1", "head/bias"))
    assert {name: set(part) for name, part in fixed.items()} == {"layers": {1}, "head": {"bias"}}
    assert set(trained["layers"]) == {0, *range(2, 11)}
    assert set(trained["head"]) == {"kernel"}
    assert jax.tree.structure(join(trained, fixed)) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, join(trained, fixed), params)
    assert partition(params, ()) == (params, {})


@pytest.mark.parametrize("name", ["layer", "layers/11", "backbone/layers", "layers/1/kern", ""])
def test_a_path_of_no_parameter_cannot_be_frozen(name):
    with pytest.raises(ConfigError, match=f"no parameter to freeze below '{name}': paths here begin with head, layers"):
        partition(split(Layers())[1], ("head", name))


def test_something_must_be_left_to_train():
    with pytest.raises(ConfigError, match="freezing layers, head leaves no parameter to train"):
        partition(split(Layers())[1], ("layers", "head"))


@pytest.mark.parametrize(("name", "accumulate"), [("adamw", 1), ("sgd", 2)])
def test_frozen_parameters_keep_every_bit_and_the_rest_trains(name, accumulate):
    optim = replace(PLAIN, name=name, weight_decay=0.5, ema_decay=0.3, clip_norm=1e-3, accumulate=accumulate)
    frozen = ("layers/1", "layers/3/kernel")
    states, metrics = steps(Layers(), optim, squares, [batch(1.0, -2.0)] * 4, frozen=frozen)
    first, last = states[0], states[-1]
    for kept in (last["params"], last["ema"]["params"]):
        jax.tree.map(np.testing.assert_array_equal, partition(kept, frozen)[1], partition(first["params"], frozen)[1])
        moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), partition(kept, frozen)[0],
                             partition(first["params"], frozen)[0])
        assert min(jax.tree.leaves(moved)) > 0
    assert metrics[-1]["loss"] != metrics[0]["loss"]


def test_frozen_parameters_have_no_optimiser_state_and_no_part_in_the_norms():
    """Against the gradient of the whole: the norm over the trained part, and its clipped update."""
    config = replace(PLAIN, clip_norm=1e-3)
    model = Layers()
    states, (metrics,) = steps(model, config, squares, [batch(1.0)], frozen=("layers",))
    graphdef, params, stats = split(model)
    output = lambda p: merge(graphdef, p, stats, training=True)(batch(1.0)["x"])  # noqa: E731
    head = jax.grad(lambda p: (output(p) ** 2).mean())(params)["head"]
    norm = float(np.hypot(head["kernel"].item(), head["bias"].item()))
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > 2e-3
    moved = states[1]["params"]["head"]["bias"] - params["head"]["bias"]
    assert moved.item() == pytest.approx(-0.1 * 1.9 * 1e-3 * head["bias"].item() / norm, rel=1e-4)
    after = states[1]["params"]["head"]
    assert metrics["parameter_norm"] == pytest.approx(np.hypot(after["kernel"].item(), after["bias"].item()), rel=1e-5)
    momentum = {leaf.shape for leaf in jax.tree.leaves(states[1]["opt_state"]) if leaf.ndim}
    assert momentum == {(1,), (1, 1)}
    assert len([leaf for leaf in jax.tree.leaves(states[1]["opt_state"]) if leaf.ndim]) == 2


def test_the_gradient_of_frozen_kernels_is_not_computed():
    """The compiled step of a chain whose lower half is frozen is as if that half were no parameters."""
    optimizer = make_optimizer(PLAIN, 10)

    def matrix_products(frozen):
        state = init_state(Layers(), optimizer, PLAIN, 0, frozen)
        step = make_step(split(Layers())[0], optimizer, squares, PLAIN, frozen)
        return str(jax.make_jaxpr(step)(state, {}, batch(1.0))).count("dot_general")

    assert matrix_products(()) == 12 + 12 + 11  # forward, kernels, inputs but the first
    assert matrix_products(("layers",)) == 12 + 1


def test_the_step_is_a_pure_function_that_keeps_its_input():
    optimizer = make_optimizer(PLAIN, 100)
    state = init_state(Line(), optimizer, PLAIN, 0)
    step = step_function(split(Line())[0], optimizer, squares, PLAIN)
    (one, first), (two, second) = (step(state, {}, batch(1.0, 2.0)) for _ in range(2))
    assert first == second
    assert float(one["params"]["w"][0, 0]) == float(two["params"]["w"][0, 0]) == pytest.approx(1 - 0.1 * 1.9 * 5)
    assert float(state["params"]["w"][0, 0]) == 1


def test_unknown_paths_are_refused_with_what_was_meant():
    params = split(Layers())[1]
    check_paths(params, ("layers/10", "head"), "give a rate")
    check_paths(params, (), "give a rate")
    with pytest.raises(ConfigError, match="no parameter to give a rate below 'tail': paths here begin with head, lay"):
        check_paths(params, ("head", "tail"), "give a rate")
