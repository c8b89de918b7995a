"""The commands of the detector: which config they start from, what they refuse, and what they write."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.cli import main
from wbcjax.cli.detector import Train
from wbcjax.cli.parse import parse
from wbcjax.data import coco
from wbcjax.pipeline.detector_presets import compact, compact_all_classes, detector_config


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with a coloured, a grey and a transparent image of different sizes."""
    folder = tmp_path / "smears"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (48, 64, 3)), ("grey.png", (50, 40)), ("alpha.png", (64, 96, 4))):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, shape, np.uint8))
    return folder


def refused(capsys, *argv: object) -> str:
    assert main([*map(str, argv)]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(("argv", "expected"), [
    ([], compact()),
    (["--recipe", "compact-all"], compact_all_classes()),
    (["--recipe", "vgg16", "--preset", "paper"], detector_config("vgg16", "paper")),
    (["--recipe=resnet50", "--weights", "r.safetensors"],
     detector_config("resnet50", "cpu", Path("r.safetensors"))),
])
def test_the_recipe_decides_what_the_flags_start_from(argv, expected):
    assert parse(Train, argv, "x").config == expected
    changed = parse(Train, [*argv, "--train.epochs", "3", "--model.frozen_stages", "1"], "x").config
    assert (changed.train.epochs, changed.model.frozen_stages) == (3, 1)
    assert changed.optim == expected.optim


def test_a_config_file_stands_for_the_recipe(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(cfg.to_dict(detector_config("vgg16"))))
    assert parse(Train, ["--config", str(file)], "x").config == detector_config("vgg16")


@pytest.mark.parametrize(("argv", "message"), [
    (["detector", "train", "--recipe", "yolo"], "invalid choice 'yolo' for argument '--recipe'"),
    (["detector", "train", "--train.epochs", "0"], "train.epochs = 0 is impossible: expected >= 1"),
    (["detector", "train", "--model.canvas", "100", "100"], "model.canvas = (100, 100) is impossible"),
    (["detector", "train", "--classes", "wbc"], "--classes chooses among those of --folder"),
    (["detector", "train", "--folder", "absent"], "absent: no such file or folder"),
    (["detector", "train", "--data.root", "absent"], "absent: no such folder (data.root)"),
    (["detector", "train", "--config", "absent.json"], "absent.json: no such configuration file"),
    (["detector", "evaluate", "absent"], "absent: no such weights file"),
    (["detector", "tain"], "did you mean 'detector train'?"),
    (["detect"], "detect needs image files"),
    (["detect", "a.jpg", "--weights", "absent"], "absent: no such weights file"),
    (["detect", "a.jpg", "--score", "2"], "score = 2.0"),
])
def test_a_wrong_command_is_refused_in_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WBCJAX_DATA", raising=False)
    assert message in refused(capsys, *argv)
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_detect_draws_and_lists_what_is_in_any_image(detector_weights, images, capsys, tmp_path):
    out = tmp_path / "out"
    assert main(["detect", str(images), "--weights", str(detector_weights), "--out", str(out), "--score", "0"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{images / name}: wbc 0." in printed for name in ("a.png", "grey.png", "alpha.png"))
    assert {path.name for path in out.iterdir()} == {"a.png", "grey.png", "alpha.png", "detections.json",
                                                     "detections.csv"}
    assert cv2.imread(str(out / "grey.png")).shape == (50, 40, 3)
    found = coco(out / "detections.json", images)  # not strict: a mask may be empty
    assert found.sizes == ((48, 64), (64, 96), (50, 40)) and all(map(len, found.boxes))
    assert len((out / "detections.csv").read_text().splitlines()) == 1 + sum(map(len, found.boxes))


def test_detect_names_the_file_that_is_no_image(detector_weights, images, capsys, tmp_path):
    (images / "broken.jpg").write_bytes(b"nothing")
    command = ("detect", "--weights", detector_weights)
    assert f"{images / 'broken.jpg'}: not an image" in refused(capsys, *command, images)
    assert "absent.jpg: no such image" in refused(capsys, *command, images / "absent.jpg")


def test_evaluate_measures_boxes_of_ones_own(detector_weights, synthetic_root, capsys, tmp_path):
    out = tmp_path / "x.json"
    folder = synthetic_root / "BCCD_Dataset" / "BCCD"
    assert main(["detector", "evaluate", str(detector_weights), "--folder", str(folder), "--out", str(out)]) == 0
    assert "Table 3" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert {row["split"] for row in rows} == {"BCCD"} and not any(row.get("kind") == "mask" for row in rows)
