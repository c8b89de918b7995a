"""Weights files by version, and those whose metadata is damaged."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from wbcjax.errors import CheckpointError
from wbcjax.training.weights import is_ours, load_weights, read_card, read_config, save_weights

PARAMS, STATS = {"kernel": np.ones((2, 3), np.float32)}, {"mean": np.zeros(2, np.float32)}


def with_metadata(path, **metadata):
    """A file of ours with other metadata."""
    save_weights(path, PARAMS, STATS, {"a": 1})
    save_file(load_file(path), path, {"format": "wbcjax", **metadata})
    return path


def test_a_file_without_a_version_is_of_the_first(tmp_path):
    path = with_metadata(tmp_path / "old.safetensors", config='{"a": 1}')
    assert read_config(path) == {"a": 1} and read_card(path) == {}
    np.testing.assert_array_equal(load_weights(path, (PARAMS, STATS))[0]["kernel"], PARAMS["kernel"])


def test_a_later_version_is_ours_and_refused_by_its_number(tmp_path):
    path = with_metadata(tmp_path / "new.safetensors", config="{}", version="2")
    assert is_ours(path)
    for read in (read_config, read_card, lambda path: load_weights(path, (PARAMS, STATS))):
        with pytest.raises(CheckpointError, match=r"new\.safetensors: weights of format version 2, while .* reads 1"):
            read(path)


@pytest.mark.parametrize("config", ["{", "[]", "[" * 100_000, "9" * 5000])
def test_a_config_that_is_no_table_is_damaged(tmp_path, config):
    path = with_metadata(tmp_path / "bad.safetensors", config=config)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: its config is damaged"):
        read_config(path)


@pytest.mark.parametrize("kind", ["F8_E8M0", "F4", "X"])
def test_an_array_of_a_type_that_numpy_lacks_is_refused(tmp_path, kind):
    header = json.dumps({"__metadata__": {"format": "wbcjax", "config": "{}"},
                         "params/kernel": {"dtype": kind, "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "type.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=r"type\.safetensors: .*damaged"):
        load_weights(path, ({"kernel": np.ones(4, np.float32)}, {}))
