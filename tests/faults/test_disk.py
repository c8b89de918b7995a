"""A full disk, a folder that cannot be written, an image that vanishes: one clear line, and a good last checkpoint."""

import subprocess

import jax
import pytest

from wbcjax.cli import main
from wbcjax.data import images


@pytest.fixture
def arguments(synthetic_root, tmp_path):
    """Of ``wbcjax`` for a tiny run: 16 images, two batches an epoch."""
    return lambda workdir: [
        "train", "--data.root", str(synthetic_root), "--data.cache_dir", str(tmp_path / "cache"),
        "--workdir", str(workdir), "--model.name", "lenet", "--model.image_size", "16", "16", "--folds", "3",
        "--fold", "0", "--train.batch_size", "8", "--train.epochs", "4", "--train.log_every", "1"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 0.8 MB, which holds two checkpoints of such a run and a part of the next."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    jax.clear_caches()
    subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def last_word(capfd):
    """The line that the program ended with; no pages of a library's own."""
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def steps(workdir):
    """Of the checkpoints there are."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_when_there_is_room(arguments, small_disk, capfd):
    workdir = small_disk / "run"
    assert main(arguments(workdir)) == 2
    said = last_word(capfd)
    last = steps(workdir)[-1]
    assert said.startswith(f"wbcjax: {workdir}/checkpoints/{last + 2}: the checkpoint cannot be written (")
    assert f"that of step {last} is good: free space" in said
    remount(small_disk, "size=64m")
    assert main([*arguments(workdir), "--resume"]) == 0
    assert steps(workdir)[-1] == 8

    remount(small_disk, "ro")
    assert main([*arguments(small_disk / "another")]) == 2
    assert "Read-only file system" in last_word(capfd)
    remount(small_disk, "rw")


def test_an_image_deleted_between_listing_and_decoding_is_named(arguments, tmp_path, monkeypatch, capfd):
    """The run that was begun before goes on when the image is there again."""
    workdir, decode = tmp_path / "run", images._decode

    def without_one(paths, *others):
        return decode([*paths[:-1], paths[-1].with_name("gone.jpeg")], *others)

    monkeypatch.setattr(images, "_decode", without_one)
    assert main(arguments(workdir)) == 2
    said = last_word(capfd)
    assert said.endswith("gone.jpeg: no such image; check the path, or download the data set again")
    assert not list((tmp_path / "cache").glob("images*"))
    monkeypatch.undo()
    assert main(arguments(workdir)) == 0
