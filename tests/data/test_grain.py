"""Batches by grain: order, resume, shares of processes, and the fill of the last evaluation batch."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcjax.data.grain_pipeline import grain_batches, grain_eval_batches
from wbcjax.errors import ConfigError, DataError

pytest.importorskip("grain")

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 6, 8, 3), np.uint8)
LABELS = np.arange(23, dtype=np.int32) % 4


def indices(stream, count=None) -> list[list[int]]:
    taken = stream if count is None else (next(stream) for _ in range(count))
    return [batch["index"].tolist() for batch in taken]


@pytest.fixture
def files(tmp_path):
    paths = []
    for number, image in enumerate(IMAGES):
        paths.append(tmp_path / "TRAIN" / "MONOCYTE" / f"_{number}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(paths[-1]), image[..., ::-1])
    return tuple(paths)


def test_batches_hold_the_images_of_their_indices(files):
    stream = grain_batches(files, LABELS, batch_size=5, seed=0, epochs=2)
    batches = list(stream)
    assert len(batches) == 8 and stream.steps_per_epoch == 4 and stream.batch_size == 5
    for batch in batches:
        assert {name: (part.dtype, part.shape) for name, part in batch.items()} == {
            "image": (np.uint8, (5, 6, 8, 3)), "label": (np.int32, (5,)), "index": (np.int32, (5,))}
        np.testing.assert_array_equal(batch["image"], IMAGES[batch["index"]])
        np.testing.assert_array_equal(batch["label"], LABELS[batch["index"]])
        assert stream.names(batch) == [f"TRAIN/MONOCYTE/_{i}.png" for i in batch["index"]]


def test_arrays_and_tfds_examples_are_sources_too():
    for source in (IMAGES, [{"image": image} for image in IMAGES]):
        batch = next(grain_batches(source, LABELS, batch_size=4, seed=0))
        np.testing.assert_array_equal(batch["image"], IMAGES[batch["index"]])


def test_resized(files):
    assert next(grain_batches(files, LABELS, size=(3, 4), batch_size=4, seed=0))["image"].shape == (4, 3, 4, 3)


def test_every_image_at_most_once_an_epoch_and_each_epoch_in_its_own_order():
    epochs = np.array(indices(grain_batches(IMAGES, LABELS, batch_size=5, seed=0, epochs=3))).reshape(3, -1)
    for epoch in epochs:
        assert len(set(epoch)) == 20  # the three left over do not fill a batch
    assert len({tuple(epoch) for epoch in epochs}) == 3
    whole = np.array(indices(grain_batches(IMAGES[:20], LABELS[:20], batch_size=5, seed=0, epochs=2))).reshape(2, -1)
    assert all(sorted(epoch) == list(range(20)) for epoch in whole)


def test_order_depends_on_the_seed_alone():
    def first(seed):
        return indices(grain_batches(IMAGES, LABELS, batch_size=5, seed=seed), 12)

    assert first(1) == first(1) != first(2)


def test_unshuffled():
    stream = grain_batches(IMAGES, LABELS, batch_size=10, seed=0, shuffle=False, epochs=2)
    assert indices(stream) == [list(range(10)), list(range(10, 20))] * 2


@pytest.mark.parametrize("taken", [0, 3, 4, 6])
def test_resumed_batches_are_those_of_an_uninterrupted_run(taken):
    def stream():
        return grain_batches(IMAGES, LABELS, batch_size=5, seed=3, epochs=3)

    whole = indices(stream())
    begun = stream()
    indices(begun, taken)
    state = json.loads(json.dumps(begun.get_state()))  # as a checkpoint keeps it
    resumed = stream()
    resumed.set_state(state)
    assert indices(resumed) == whole[taken:]
    begun.set_state(state)  # going back works as well
    assert indices(begun) == whole[taken:]


def test_processes_share_each_batch():
    def shares(count):
        streams = [grain_batches(IMAGES, LABELS, batch_size=6, seed=0, epochs=2, process_index=i, process_count=count)
                   for i in range(count)]
        return [np.concatenate(parts).tolist() for parts in zip(*map(indices, streams), strict=True)]

    assert shares(1) == shares(2) == shares(3)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 23), share=st.integers(1, 9), processes=st.integers(1, 3))
def test_evaluation_sees_every_image_once(n, share, processes):
    streams = [grain_eval_batches(IMAGES[:n], LABELS[:n], batch_size=share * processes, process_index=i,
                                  process_count=processes) for i in range(processes)]
    seen = []
    for parts in zip(*streams, strict=True):  # equally many batches in each process
        for batch in parts:
            assert batch["image"].shape == (share, 6, 8, 3)
            seen += batch["index"][batch["valid"]].tolist()
            assert not batch["image"][~batch["valid"]].any() and not batch["label"][~batch["valid"]].any()
            np.testing.assert_array_equal(batch["image"][batch["valid"]], IMAGES[batch["index"][batch["valid"]]])
    assert seen == list(range(n))


def test_mask_of_the_last_batch():
    stream = grain_eval_batches(IMAGES[:7], LABELS[:7], batch_size=4)
    first, last = stream
    assert first["valid"].tolist() == [True] * 4 and last["valid"].tolist() == [True] * 3 + [False]
    assert last["index"].tolist() == [4, 5, 6, 0]
    assert stream.names(last) == ["image 4", "image 5", "image 6"]
    assert stream.steps_per_epoch == 2


def test_damaged_file_is_named(files):
    files[7].write_bytes(files[7].read_bytes()[:60])
    with pytest.raises(DataError, match=r"_7\.png: truncated"):
        list(grain_eval_batches(files, LABELS, batch_size=4))


def test_odd_size_needs_a_size(files):
    cv2.imwrite(str(files[2]), IMAGES[2][:4])
    with pytest.raises(DataError, match="give a size"):
        next(grain_eval_batches(files, LABELS, batch_size=4))


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"batch_size": 24}, ConfigError, "expected at most 23"),
    ({"batch_size": 0}, ConfigError, "batch_size = 0"),
    ({"batch_size": 5, "process_count": 2}, ConfigError, "multiple of 2 processes"),
    ({"labels": LABELS[:3]}, DataError, "23 images have 3 labels"),
])
def test_impossible_arguments(change, error, message):
    with pytest.raises(error, match=message):
        grain_batches(IMAGES, **({"labels": LABELS, "batch_size": 4, "seed": 0} | change))
