"""Checkpoints: round trip, what is kept, damage, and checkpoints of something else."""

import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.errors import CheckpointError
from wbcjax.training import Checkpoints
from wbcjax.training.digests import DIGESTS, find_damage


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


def truncate(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flip(file):
    content = bytearray(file.read_bytes()) or bytearray(b"\0")
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("alter", [truncate, flip])
def test_every_file_of_a_checkpoint_is_named_when_it_is_altered(copy, alter):
    assert find_damage(copy / "3") is None
    files = [path for path in (copy / "3").rglob("*") if path.is_file()]
    assert len(files) >= 10 and copy / "3" / DIGESTS in files
    for file in files:
        content = file.read_bytes()
        alter(file)
        # A digest that differs accuses the file it is of.
        assert (str(copy / "3") if file.name == DIGESTS else str(file)) in find_damage(copy / "3"), file
        file.unlink()
        assert find_damage(copy / "3") == (None if file.name == DIGESTS else f"{file}: missing")
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "largest"])
@pytest.mark.parametrize("alter", [truncate, flip])
def test_the_checkpoint_before_is_loaded_with_a_warning_and_training_goes_on(copy, caplog, name, alter):
    files = [p for p in (copy / "3").rglob("*") if p.is_file()]
    file = max(files, key=lambda p: p.stat().st_size) if name == "largest" else copy / "3" / name
    alter(file)
    checkpoints = Checkpoints(copy)
    loaded, memory = checkpoints.restore(state(key=5))
    assert memory["step"] == 2 and checkpoints.latest == 2
    jax.tree.map(np.testing.assert_array_equal, loaded, state())
    assert caplog.messages == [
        f"{file}: changed since it was written; going on from the checkpoint before, and 3 is now 3.damaged"]
    checkpoints.save(3, state(key=6), {"step": 3})
    checkpoints.close()
    np.testing.assert_array_equal(Checkpoints(copy).restore(state())[0]["key"], state(key=6)["key"])
    assert sorted(p.name for p in copy.iterdir()) == ["2", "3", "3.damaged"]


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt"])
def test_so_is_it_without_digests_as_a_process_killed_before_them_leaves_it(copy, caplog, name):
    (copy / "3" / DIGESTS).unlink()
    assert Checkpoints(copy).restore(state())[1]["step"] == 3
    truncate(copy / "3" / name)
    assert Checkpoints(copy).restore(state())[1]["step"] == 2
    assert "3: damaged, or written with other settings" in caplog.text


def test_without_a_good_checkpoint_the_error_names_the_newest_and_the_remedy(copy):
    truncate(copy / "2" / "_CHECKPOINT_METADATA")
    truncate(copy / "3" / "state" / "_METADATA")
    with pytest.raises(CheckpointError, match=r"3/state/_METADATA: changed .*no other .* is good: delete .* start aga"):
        Checkpoints(copy).restore(state())
    assert (copy / "3").is_dir()


def test_a_version_is_read_or_refused_by_its_number(tmp_path, monkeypatch):
    """Version 1 has no number and no digests."""
    with monkeypatch.context() as patch:
        patch.setattr("wbcjax.training.checkpoint.VERSION", 3)
        Checkpoints(tmp_path / "3").save(1, state(), {"step": 1})
    with pytest.raises(CheckpointError, match="format version 3, while this wbcjax reads 1 to 2; go on with the wbc"):
        Checkpoints(tmp_path / "3").restore(state())
    old = Checkpoints(tmp_path / "1")
    old._checkpointer.save_checkpointables(1, {"state": state()}, custom_metadata={"step": 1})
    assert old.restore(state())[1] == {"step": 1}


def test_a_file_that_cannot_grow_ends_in_an_error_and_the_checkpoint_before(tmp_path):
    """As on a full disk or over a quota: files of at most 200 bytes."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state(), {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        with pytest.raises(CheckpointError, match=r"2: the checkpoint cannot be written \(.*that of step 1 is good"):
            checkpoints.save(2, state(key=1), {"step": 2})
        checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.restore(state())[1] == {"step": 1}
    again.save(2, state(key=1), {"step": 2})
    again.close()
    assert Checkpoints(tmp_path / "checkpoints").restore(state())[1] == {"step": 2}


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
