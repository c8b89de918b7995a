"""The resident detection stream: what it holds, and fetching under jit."""

import jax
import numpy as np
import pytest

from wbcjax.data.detection_stream import DetectionStream, fetch_instances
from wbcjax.data.instances import DetectionArrays
from wbcjax.errors import ConfigError


@pytest.fixture
def arrays():
    n, m = 5, 2
    rng = np.random.default_rng(0)
    return DetectionArrays(
        images=rng.integers(0, 256, (n, 4, 6, 3), dtype=np.uint8),
        sizes=np.stack([np.full(n, 4), np.arange(n) + 1], axis=1).astype(np.int32),
        scales=np.ones(n, np.float32),
        boxes=rng.random((n, m, 4)).astype(np.float32),
        labels=rng.integers(0, 3, (n, m)).astype(np.int32),
        valid=rng.random((n, m)) < 0.5,
        masks=rng.random((n, m, 8, 8)) < 0.5,
        names=tuple(f"smear_{i}" for i in range(n)),
    )


def test_a_batch_is_fetched_whole(arrays):
    stream = DetectionStream(arrays, 3, seed=1)
    batch = next(stream)
    images, sizes, truth = jax.jit(fetch_instances)(stream.resident, batch)
    index = batch["index"]
    np.testing.assert_allclose(images, arrays.images[index] / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(sizes, arrays.sizes[index])
    for field in ("boxes", "labels", "valid", "masks"):
        np.testing.assert_array_equal(getattr(truth, field), getattr(arrays, field)[index])
    assert stream.names(batch) == [arrays.names[i] for i in index]


def test_order_and_position_are_those_of_the_device_stream(arrays):
    stream = DetectionStream(arrays, 2, seed=1)
    assert stream.steps_per_epoch == 2
    taken = [next(stream)["index"].tolist() for _ in range(2)]
    assert len({i for batch in taken for i in batch}) == 4
    position = stream.get_state()
    rest = next(stream)["index"].tolist()
    other = DetectionStream(arrays, 2, seed=1)
    other.set_state(position)
    assert next(other)["index"].tolist() == rest


def test_a_batch_must_fit(arrays):
    with pytest.raises(ConfigError, match=r"train.batch_size = 6 is impossible: expected 1..5"):
        DetectionStream(arrays, 6, seed=0)
