"""Checkpoints: round trip, what is kept, damage, and checkpoints of something else."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.errors import CheckpointError
from wbcjax.training import Checkpoints


def state(width=3, key=0):
    return {
        "params": {"layers": {0: {"kernel": jnp.arange(2.0 * width).reshape(2, width)}, 1: {"bias": jnp.ones(width)}}},
        "stats": {},
        "opt_state": ({"mu": jnp.full(width, 0.5)}, ()),
        "ema": {},
        "step": jnp.int32(7),
        "key": jax.random.key_data(jax.random.key(key)),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the checkpoints of steps 2 and 3."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (1, 2, 3):
        checkpoints.save(step, state(), {"step": step, "stream": {"position": step}})
    checkpoints.close()
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def test_round_trip_keeps_every_bit_and_the_memory(written):
    loaded, memory = Checkpoints(written).restore(jax.tree.map(jnp.zeros_like, state()))
    assert memory == {"step": 3, "stream": {"position": 3}}
    assert jax.tree.structure(loaded) == jax.tree.structure(state())
    jax.tree.map(np.testing.assert_array_equal, loaded, state())


def test_the_two_newest_are_kept_and_a_step_is_written_once(copy):
    checkpoints = Checkpoints(copy)
    assert checkpoints.latest == 3
    checkpoints.save(3, state(key=5), {"step": -1})
    assert checkpoints.restore(state())[1]["step"] == 3
    checkpoints.close()
    assert sorted(p.name for p in copy.iterdir() if p.name.isdigit()) == ["2", "3"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest is None
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        checkpoints.restore(state())


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "largest"])
def test_a_truncated_file_is_reported_and_the_step_before_still_loads(copy, name):
    files = [p for p in (copy / "3").rglob("*") if p.is_file()]
    file = max(files, key=lambda p: p.stat().st_size) if name == "largest" else copy / "3" / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"3: damaged.*delete this folder"):
        Checkpoints(copy).restore(state())
    shutil.rmtree(copy / "3")
    assert Checkpoints(copy).restore(state())[1]["step"] == 2


def test_another_model_is_named_by_its_first_parameter(written):
    with pytest.raises(CheckpointError, match=r"another model: params layers\.0\.kernel is \(2, 3\) there and"):
        Checkpoints(written).restore(state(width=4))
    fewer = state()
    del fewer["params"]["layers"][1]
    with pytest.raises(CheckpointError, match=r"layers\.1\.bias is \(3,\) there and absent here"):
        Checkpoints(written).restore(fewer)


def test_another_optimiser_is_named(written):
    with pytest.raises(CheckpointError, match=r"another optimiser: opt_state 0\.mu is \(3,\) there and absent here"):
        Checkpoints(written).restore(state() | {"opt_state": ()})


def test_an_unfinished_step_is_no_checkpoint(copy):
    """What a process killed while saving leaves: orbax renames a temporary folder only when all is written."""
    (copy / "9.orbax-checkpoint-tmp-0").mkdir()
    assert Checkpoints(copy).latest == 3
