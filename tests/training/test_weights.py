"""Weights files: round trip, configuration inside, damage, other models."""

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from wbcjax.errors import CheckpointError
from wbcjax.training.weights import load_weights, read_config, save_weights

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
PARAMS = {"layers": {0: {"kernel": KERNEL}}, "head": {"bias": np.ones(3, np.float32)}}
STATS = {"norm": {"mean": np.full(3, 0.5, np.float32)}}
CONFIG = {"model": {"name": "custom2", "size": [80, 80]}}


@pytest.fixture
def path(tmp_path):
    save_weights(tmp_path / "weights.safetensors", PARAMS, STATS, CONFIG)
    return tmp_path / "weights.safetensors"


def test_round_trip(path):
    assert read_config(path) == CONFIG
    like = jax.tree.map(np.zeros_like, (PARAMS, STATS))
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, like), (PARAMS, STATS))


def test_nothing_else_is_left_behind(path):
    save_weights(path, PARAMS, STATS, CONFIG | {"again": True})
    assert read_config(path)["again"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_others_may_read_it_as_the_user_s_mask_says(path):
    beside = path.with_name("text")
    beside.write_text("")
    assert path.stat().st_mode == beside.stat().st_mode


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such weights file"):
        read_config(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    for read in (read_config, lambda p: load_weights(p, (PARAMS, STATS))):
        with pytest.raises(CheckpointError, match="not a safetensors file, or damaged"):
            read(path)


def test_any_flipped_bit_is_found(path):
    """Of the arrays, of the configuration, or of the digest itself."""
    good = path.read_bytes()
    for at in (*range(len(good) - 48, len(good)), good.index(b"custom2"), good.index(b"sha256") + 20):
        for bit in (0, 7):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            with pytest.raises(CheckpointError, match=r"weights\.safetensors: .*damaged"):
                load_weights(path, (PARAMS, STATS))


def test_the_digest_is_of_the_content_alone(path):
    """However the file is laid out; arrays of half precision and scalars too."""
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    save_file(dict(reversed(load_file(path).items())), path, dict(reversed(metadata.items())))
    load_weights(path, (PARAMS, STATS))
    save_weights(path, {"a": np.float32(2), "b": np.ones(3, ml_dtypes.bfloat16)}, {}, CONFIG, half=True)
    assert load_weights(path, ({"a": np.zeros(()), "b": np.zeros(3)}, {}))[0]["b"].tolist() == [1, 1, 1]


def test_a_file_of_another_program(tmp_path):
    save_file({"x": np.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not written by wbcjax"):
        read_config(tmp_path / "other.safetensors")


def test_weights_of_another_model_name_the_tensor(path):
    wider = {"layers": {0: {"kernel": np.zeros((2, 4), np.float32)}}, "head": PARAMS["head"]}
    with pytest.raises(CheckpointError, match=r"params/layers/0/kernel is \(2, 3\) in the file and \(2, 4\)"):
        load_weights(path, (wider, STATS))
    with pytest.raises(CheckpointError, match=r"stats/norm/mean is \(3,\) in the file and absent in the model"):
        load_weights(path, (PARAMS, {}))
