"""Features of frozen stages on the disk: computed once, by content, right after any crash."""

import fcntl
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import NO_AUGMENT, AugmentConfig, ModelConfig
from wbcjax.data.augment import augment
from wbcjax.models import build
from wbcjax.pipeline import feature_store
from wbcjax.pipeline.feature_store import KEY_BYTES, FeatureStore, augmented_copies, digest
from wbcjax.training import merge, split

SIZE = (32, 40)
CONFIG = ModelConfig(name="compact", image_size=SIZE, frozen_stages=2)
CHUNK = 4


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(feature_store, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def model():
    return build(CONFIG)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (10, *SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(model, images):
    graphdef, params, stats = split(model)
    run = jax.jit(lambda p, s, x: merge(graphdef, p, s, training=False).frozen_features(x))
    return np.asarray(run(params, stats, jnp.asarray(images, jnp.float32) / 255))


@pytest.fixture
def calls(monkeypatch):
    """One entry a chunk that is computed."""
    made, compute = [], feature_store._features

    def counted(graphdef, params, stats, images):
        if isinstance(images, np.ndarray):
            made.append(len(images))
        return compute(graphdef, params, stats, images)

    monkeypatch.setattr(feature_store, "_features", counted)
    return made


def assert_close(found, expected):
    """To a step of bfloat16, which has 8 bits of precision."""
    assert isinstance(found, np.ndarray) and found.dtype == jnp.bfloat16 and found.shape == expected.shape
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2**-7, atol=1e-5)


def folder_of(path):
    (folder,) = path.iterdir()
    return folder


def kept(path) -> int:
    return (folder_of(path) / "keys.bin").stat().st_size // KEY_BYTES


def test_features_are_those_of_the_model_and_computed_once(model, images, expected, calls, tmp_path):
    store = FeatureStore(model, tmp_path, SIZE)
    assert_close(store.features(images), expected)
    assert calls == [CHUNK] * 3 and kept(tmp_path) == 10
    assert_close(store.features(images), expected)
    assert_close(FeatureStore(model, tmp_path, SIZE).features(images), expected)  # as in another process
    assert len(calls) == 3


def test_images_are_known_by_their_content(model, images, expected, calls, tmp_path):
    store = FeatureStore(model, tmp_path, SIZE)
    twice = np.array([3, 1, 3, 3, 1])
    assert_close(store.features(images[twice]), expected[twice])
    assert len(calls) == 1 and kept(tmp_path) == 2, "duplicates are one image"
    assert_close(store.features(images), expected)
    assert len(calls) == 3 and kept(tmp_path) == 10
    backwards = np.arange(10)[::-1]
    assert_close(store.features(images[backwards]), expected[backwards])
    assert_close(store.features(images[:1]), expected[:1])
    assert_close(store.features(images[:0]), expected[:0])
    assert len(calls) == 3
    other = images[:1].copy()
    other[0, 5, 5, 1] ^= 1
    store.features(other)
    assert kept(tmp_path) == 11


def test_no_image_at_all_leaves_a_store_that_goes_on(model, images, expected, tmp_path):
    store = FeatureStore(model, tmp_path, SIZE)
    assert store.features(images[:0]).shape == (0, *expected.shape[1:])
    assert_close(store.features(images[:2]), expected[:2])


def test_augmented_copies_are_images_like_any_other(model, images, calls, tmp_path):
    store, config = FeatureStore(model, tmp_path, SIZE), AugmentConfig()
    first = store.features(augmented_copies(images, config, 2, seed=0))
    assert kept(tmp_path) == 20
    again = store.features(augmented_copies(images, config, 3, seed=0))
    np.testing.assert_array_equal(again[:20], first)
    assert kept(tmp_path) == 30, "the first two copies are there already"


@pytest.mark.parametrize("lost", [("features.bin", 1), ("features.bin", 5000), ("keys.bin", 1), ("keys.bin", 50),
                                  ("keys.bin", 10 * KEY_BYTES), ("features.bin", None), ("keys.bin", None)])
def test_what_a_killed_process_left_half_written_is_computed_again(model, images, expected, tmp_path, lost):
    FeatureStore(model, tmp_path, SIZE).features(images)
    name, count = lost
    file = folder_of(tmp_path) / name
    if count is None:
        file.unlink()
    else:
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size - count)
    for order in (np.arange(10)[::-1], np.arange(10)):
        assert_close(FeatureStore(model, tmp_path, SIZE).features(images[order]), expected[order])
    assert kept(tmp_path) == 10


def test_a_row_that_another_process_is_writing_does_not_matter(model, images, expected, tmp_path, monkeypatch):
    store = FeatureStore(model, tmp_path, SIZE)
    store.features(images)
    real = np.memmap

    def later(path, *arguments, **options):
        with open(path, "ab") as file:
            file.write(b"half a row")
        return real(path, *arguments, **options)

    monkeypatch.setattr(np, "memmap", later)
    assert_close(store.features(images), expected)


def filled(**changes):
    """A model whose arrays are zeros: only its structure is asked for."""
    config = replace(CONFIG, **changes)
    graphdef, params, stats = split(nnx.eval_shape(lambda: build(config)))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), (params, stats))
    return merge(graphdef, *zeros, training=False)


def test_models_that_differ_before_the_last_frozen_stage_do_not_share(model, images, tmp_path):
    graphdef, params, stats = split(model)
    other = merge(graphdef, jax.tree.map(lambda leaf: 0.9 * leaf, params), stats, training=False)
    models = [filled(), filled(preprocessing="imagenet"), filled(frozen_stages=3), filled(dtype="bfloat16"),
              filled(norm="group"), *(filled(name="resnet50", flavour=flavour) for flavour in ("torchvision", "keras")),
              model, other]
    assert len({digest(one) for one in models}) == len(models)
    assert digest(merge(graphdef, params, stats, training=True)) == digest(model)
    found = [FeatureStore(m, tmp_path, SIZE).features(images[:2]).astype(np.float32) for m in (model, other)]
    assert np.abs(found[0] - found[1]).max() > 0.1
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_trained_does_not_make_another_store(model):
    graphdef, params, stats = split(model)
    for path in (("classifier", "bias"), ("backbone", "layer3", 0, "conv1", "kernel")):
        flat = nnx.traversals.flatten_mapping(params)
        flat[path] = flat[path] + 1
        trained = merge(graphdef, nnx.traversals.unflatten_mapping(flat), stats, training=False)
        assert digest(trained) == digest(model)
    flat = nnx.traversals.flatten_mapping(stats)
    path = next(path for path in flat if path[:2] == ("backbone", "stem"))
    flat[path] = flat[path] + 1
    assert digest(merge(graphdef, params, nnx.traversals.unflatten_mapping(flat), training=False)) != digest(model)


def test_a_second_process_waits_for_the_first(model, images, expected, tmp_path):
    store, found = FeatureStore(model, tmp_path, SIZE), []
    store.features(images[:1])
    thread = threading.Thread(target=lambda: found.append(store.features(images)))
    with (folder_of(tmp_path) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and kept(tmp_path) == 1
    thread.join(60)
    assert_close(found[0], expected)


def test_copies_without_augmentation_are_the_images_again(images):
    np.testing.assert_array_equal(augmented_copies(images[:3], NO_AUGMENT, 2, seed=0), images[[0, 1, 2, 0, 1, 2]])


def test_copies_follow_the_seed_and_differ(images):
    few = images[:3]
    a, b, c = (augmented_copies(few, AugmentConfig(), 2, seed) for seed in (0, 0, 1))
    assert a.shape == (6, *SIZE, 3) and a.dtype == np.uint8
    np.testing.assert_array_equal(a, b)
    assert (a != c).mean() > 0.5 and (a[:3] != a[3:]).mean() > 0.5


@pytest.mark.parametrize(("count", "copies"), [(1, 3), (3, 3), (5, 3), (8, 1), (10, 2)])
def test_copies_in_chunks_that_do_not_divide_them(images, count, copies):
    """All images once, then all again; each chunk of four has a key of its own."""
    found = augmented_copies(images[:count], AugmentConfig(), copies, seed=7)
    assert found.shape == (count * copies, *SIZE, 3)
    for number, start in enumerate(range(0, count * copies, CHUNK)):
        part = images[:count][np.arange(start, start + CHUNK) % count]
        changed = augment(jax.random.fold_in(jax.random.key(7), number), part.astype(np.float32) / 255, AugmentConfig())
        expected = np.round(np.asarray(changed) * 255)[: count * copies - start]
        assert np.abs(found[start : start + CHUNK] - expected).max() <= 1
