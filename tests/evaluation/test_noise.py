"""The noise sweep against the plain loop over alphas, seeds and images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.errors import ConfigError
from wbcjax.evaluation.noise import add_noise, gaussian, noise_accuracy, noise_sweep

ALPHAS = (0.0, 0.05, 0.35)
KEY = jax.random.key(0)
WEIGHTS = jax.random.normal(jax.random.key(1), (6 * 5 * 3, 4))
IMAGES = np.random.default_rng(2).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


def predict(images):
    return images.reshape(len(images), -1) @ WEIGHTS


def plain_loop():
    result = np.zeros((len(ALPHAS), 2, len(IMAGES)), int)
    for a, alpha in enumerate(ALPHAS):
        for seed in range(2):
            for i, image in enumerate(IMAGES):
                noise = np.asarray(gaussian(KEY, seed, i, image.shape))
                noisy = np.clip(image.astype(np.float32) / 255 + np.float32(alpha) * noise, 0, 1)
                result[a, seed, i] = np.argmax(noisy.reshape(-1) @ np.asarray(WEIGHTS))
    return result


@pytest.mark.parametrize("batch_size", [3, 7, 64])
def test_equals_the_plain_loop(batch_size):
    swept = noise_sweep(predict, IMAGES, alphas=ALPHAS, seeds=2, key=KEY, batch_size=batch_size)
    assert swept.shape == (3, 2, 7)
    np.testing.assert_array_equal(swept, plain_loop())


def test_noise_changes_predictions_and_no_noise_changes_none():
    swept = noise_sweep(predict, IMAGES, alphas=ALPHAS, seeds=2, key=KEY)
    clean = np.argmax(predict(jnp.asarray(IMAGES, jnp.float32) / 255), axis=-1)
    assert (swept[0] == clean).all()
    assert (swept[2] != clean).any()


def test_compiles_once_for_all_batches():
    traces = []  # four batches, the last one padded

    def counted(images):
        traces.append(images.shape)
        return predict(images)

    noise_sweep(counted, IMAGES, alphas=ALPHAS, seeds=2, key=KEY, batch_size=2)
    first = len(traces)
    noise_sweep(counted, IMAGES, alphas=(0.1, 0.2, 0.3), seeds=2, key=jax.random.key(5), batch_size=2)
    assert len(traces) == first and set(traces) == {(2, 6, 5, 3)}


def test_partial_passes_its_arrays_as_arguments():
    partial = jax.tree_util.Partial(lambda weights, x: x.reshape(len(x), -1) @ weights, WEIGHTS)
    swept = noise_sweep(partial, IMAGES, alphas=ALPHAS, seeds=2, key=KEY)
    np.testing.assert_array_equal(swept, plain_loop())


def test_sharded_over_devices():
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    swept = noise_sweep(predict, IMAGES, alphas=ALPHAS, seeds=2, key=KEY, batch_size=3, sharding=sharding)
    np.testing.assert_array_equal(swept, plain_loop())


def test_noise_is_standard_normal_and_differs_by_seed_and_image():
    drawn = np.stack([gaussian(KEY, seed, i, (32, 32, 3)) for seed in range(2) for i in range(2)])
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05
    assert len(np.unique(drawn[:, 0, 0, 0])) == 4


def test_clipped_to_the_unit_range():
    images = jnp.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(add_noise(images, jnp.array([-1.0, 1.0, 1.0]), 0.25), [0, 0.75, 1])


def test_no_image():
    swept = noise_sweep(predict, IMAGES[:0], alphas=ALPHAS, seeds=2, key=KEY)
    assert swept.shape == (3, 2, 0)


@pytest.mark.parametrize("change", [{"alphas": ()}, {"seeds": 0}, {"batch_size": 0}])
def test_empty_grid(change):
    with pytest.raises(ConfigError, match="at least one"):
        noise_sweep(predict, IMAGES, **({"alphas": ALPHAS, "seeds": 1, "key": KEY} | change))


def test_accuracy_per_alpha_and_seed():
    predictions = np.array([[[0, 1], [0, 0]]])
    np.testing.assert_allclose(noise_accuracy(predictions, np.array([0, 1])), [[1.0, 0.5]])
