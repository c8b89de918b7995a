"""The device-resident stream: every item once an epoch, positions, shares of processes, and fetching under jit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcjax.data.device import DeviceStream, fetch
from wbcjax.errors import ConfigError, DataError


def stream(n=12, batch_size=4, seed=0):
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return DeviceStream(images, np.arange(n), [f"cell_{i}.png" for i in range(n)], batch_size=batch_size, seed=seed)


def take(s, batches):
    return [next(s)["index"].tolist() for _ in range(batches)]


@settings(deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_no_item_twice_an_epoch_and_all_where_batches_divide(n, batch_size, seed):
    batch_size = min(batch_size, n)
    s = stream(n, batch_size, seed)
    assert s.steps_per_epoch == n // batch_size
    for _ in range(2):
        seen = [i for batch in take(s, s.steps_per_epoch) for i in batch]
        assert len(set(seen)) == len(seen) == s.steps_per_epoch * batch_size
        assert set(seen) <= set(range(n))


def test_order_differs_by_epoch_and_seed_and_repeats_for_a_seed():
    s = stream()
    first, second = take(s, 3), take(s, 3)
    assert sorted(np.ravel(first)) == sorted(np.ravel(second)) == list(range(12))
    assert first != second
    assert take(stream(), 6) == first + second
    assert take(stream(seed=1), 3) != first


@pytest.mark.parametrize("taken", [0, 1, 3, 5])
def test_a_position_continues_the_same_batches(taken):
    s = stream()
    take(s, taken)
    position = json.loads(json.dumps(s.get_state()))
    rest = take(s, 5)
    other = stream()
    take(other, 2)
    other.set_state(position)
    assert take(other, 5) == rest


def test_processes_share_each_batch(monkeypatch):
    whole = take(stream(), 4)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    shares = []
    for index in (0, 1):
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        shares.append(take(stream(), 4))
    assert [a + b for a, b in zip(*shares, strict=True)] == whole


def test_names_of_a_batch():
    s = stream()
    batch = next(s)
    assert s.names(batch) == [f"cell_{i}.png" for i in batch["index"]]


@pytest.mark.parametrize("batch_size", [0, 13])
def test_a_batch_must_fit_the_data(batch_size):
    with pytest.raises(ConfigError, match=f"train.batch_size = {batch_size}.*1..12"):
        stream(batch_size=batch_size)


def test_lengths_must_agree():
    with pytest.raises(DataError, match="2 images, 2 labels and 1 names"):
        DeviceStream(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, int), ["a"], batch_size=1, seed=0)


def test_fetch_gathers_and_scales_resident_images():
    s = stream()
    images, labels = jax.jit(fetch)(s.resident, {"index": np.array([5, 0])})
    np.testing.assert_allclose(images[:, 0, 0, 0], [5 / 255, 0], rtol=1e-6)
    assert images.dtype == jnp.float32
    assert labels.tolist() == [5, 0]


def test_fetch_takes_images_that_the_batch_carries():
    batch = {"image": np.full((1, 2, 2, 3), 255, np.uint8), "label": np.array([3]), "index": np.array([7])}
    images, labels = jax.jit(fetch)({}, batch)
    np.testing.assert_array_equal(images, np.ones((1, 2, 2, 3)))
    assert labels.tolist() == [3]
