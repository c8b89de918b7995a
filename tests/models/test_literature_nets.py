"""Networks of other papers: squash and routing by hand, the length of a class's capsule, sizes, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import ModelConfig
from wbcjax.models import MODELS, build, parameter_count
from wbcjax.models.capsule import CapsuleNet, ClassCapsules, route, squash
from wbcjax.training import merge, split

SIZE = (33, 49)


def squash_by_hand(s):
    length = np.linalg.norm(s, axis=-1, keepdims=True)
    return length**2 / (1 + length**2) * s / length


def route_by_hand(votes, iterations):
    """Procedure 1 of Sabour et al. 2017, one image, capsule by capsule."""
    n, c, d = votes.shape
    b = np.zeros((n, c))
    for _ in range(iterations):
        s = np.zeros((c, d))
        for i in range(n):
            share = np.exp(b[i]) / np.exp(b[i]).sum()
            for j in range(c):
                s[j] += share[j] * votes[i, j]
        v = squash_by_hand(s)
        for i in range(n):
            for j in range(c):
                b[i, j] += votes[i, j] @ v[j]
    return s


def test_squash_keeps_the_direction_and_shortens():
    found = squash(jnp.array([[3.0, 4.0], [0.3, -0.4], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[25 / 26 * 0.6, 25 / 26 * 0.8], [0.12, -0.16], [0, 0]], atol=1e-5)
    gradient = jax.jacobian(squash)(jnp.zeros(2))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_routing_is_procedure_1(iterations):
    votes = np.random.default_rng(iterations).normal(size=(2, 7, 3, 4)).astype(np.float32)
    expected = [route_by_hand(image.astype(np.float64), iterations) for image in votes]
    np.testing.assert_allclose(route(jnp.asarray(votes), iterations), expected, rtol=2e-4, atol=1e-5)


def test_routing_finds_the_class_on_which_votes_agree():
    opposed = np.tile([[2.0, 0.0], [-2.0, 0.0]], (3, 1))  # of class 0: they cancel
    votes = jnp.asarray(np.stack([opposed, np.tile([[0.0, 1.0]], (6, 1))], axis=1)[None], jnp.float32)
    even, routed = (jnp.linalg.norm(route(votes, n)[0], axis=-1) for n in (1, 4))
    assert even[0] < 1e-6 and routed[0] < 1e-5 and float(even[1]) == pytest.approx(3)
    assert routed[1] > 4.5  # of 6: votes went from the class that nobody agrees on to the other


def test_the_sigmoid_of_a_logit_is_the_capsules_length():
    capsules = ClassCapsules(5, 4, 3, out_dim=6, rngs=nnx.Rngs(0))
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 20)), jnp.float32)
    votes = np.einsum("bnp,ncpd->bncd", features.reshape(2, 5, 4), capsules.kernel[...])
    lengths = np.linalg.norm([squash_by_hand(route_by_hand(image, 3)) for image in votes], axis=-1)
    np.testing.assert_allclose(jax.nn.sigmoid(capsules(features)), lengths, rtol=1e-4)


def test_parameter_counts():
    def count(name, size):
        return parameter_count(nnx.eval_shape(lambda: build(ModelConfig(name=name, image_size=size))))

    convs = sum(9 * i * o + o + 9 * o * o + o for i, o in ((3, 16), (16, 32), (32, 64)))
    assert count("double_conv", SIZE) == convs + (4 * 6 * 64 + 1) * 128 + (128 + 1) * 4
    convs = sum(25 * i * o + o for i, o in ((3, 32), (32, 64), (64, 64)))
    assert count("capsule", SIZE) == convs + 5 * 7 * 8 * 4 * 8 * 16


@pytest.mark.parametrize("name", ["double_conv", "capsule"])
def test_every_gradient_is_finite_and_present(name):
    graphdef, params, stats = split(build(ModelConfig(name=name, image_size=SIZE), seed=1))
    images = jnp.asarray(np.random.default_rng(0).random((4, *SIZE, 3)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        logits = merge(graphdef, params, stats, training=True)(images, rngs=nnx.Rngs(dropout=0))
        return -jax.nn.log_softmax(logits)[jnp.arange(4), jnp.arange(4)].mean()

    for path, leaf in jax.tree_util.tree_flatten_with_path(gradient(params))[0]:
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-8, path


@pytest.mark.parametrize("name", ["double_conv", "capsule"])
def test_smallest_images_half_precision_and_another_number_of_classes(name):
    config = ModelConfig(name=name, image_size=(16, 16), num_classes=7, dtype="bfloat16")
    assert MODELS[name].min_size == 16
    model = build(config)
    model.eval()
    found = jax.eval_shape(lambda x: model.intermediates(x), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32))
    assert found["features"].shape == (2, model.num_features) and found["features"].dtype == jnp.bfloat16
    assert found["logits"].shape == (2, 7) and found["logits"].dtype == jnp.float32
    model.reset_classifier(3, rngs=nnx.Rngs(0))
    assert model(jnp.zeros((1, 16, 16, 3))).shape == (1, 3)


def test_primary_capsules_are_shorter_than_one():
    model = build(ModelConfig(name="capsule", image_size=SIZE), seed=1)
    features = model.forward_features(jnp.asarray(np.random.default_rng(0).random((2, *SIZE, 3)), jnp.float32))
    lengths = np.linalg.norm(np.asarray(features).reshape(2, -1, CapsuleNet.dim), axis=-1)
    assert lengths.shape == (2, 5 * 7 * 8) and lengths.min() > 0 and lengths.max() < 1
