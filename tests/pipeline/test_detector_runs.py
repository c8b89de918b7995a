"""One detector run: what it writes, refuses and loads, on BCCD's layout and on boxes of one's own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_equal as assert_same
from safetensors.numpy import load_file, save_file

from wbcjax import config as cfg
from wbcjax.data import detection_folder, voc
from wbcjax.data.splits import detector_split
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.evaluation.results import read_results
from wbcjax.ops.boxes import area, pairwise_iou
from wbcjax.pipeline import detector_runs
from wbcjax.pipeline.detector import Detector, in_image_pixels
from wbcjax.pipeline.detector_runs import bccd, load_detector, side_of_split, train_detector, training_arrays
from wbcjax.pipeline.detector_study import detector_folder, detector_study
from wbcjax.pipeline.workdir import WEIGHTS, is_finished, portable
from wbcjax.report.html import read_index
from wbcjax.report.tables import build_tables
from wbcjax.training import FitResult
from wbcjax.typing_detection import Detections


@pytest.fixture(scope="module")
def config(tiny_detector, synthetic_root, tmp_path_factory) -> cfg.DetectorConfig:
    return cfg.DetectorConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path_factory.mktemp("cache")), model=tiny_detector,
        augment=cfg.DetectionAugmentConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, stain=0.0),
        train=cfg.LoopConfig(epochs=1, batch_size=4), folds=2,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def finished(config, runs) -> Path:
    """A finished run, where the study looks for it."""
    folder = detector_folder(runs, config, bccd(config.data)["corrected"])
    assert train_detector(config, folder)
    return folder


def test_a_finished_run_holds_everything(finished, config):
    assert {path.name for path in finished.iterdir()} >= {"config.json", "metrics.jsonl", "checkpoints", WEIGHTS}
    assert json.loads((finished / "config.json").read_text()) == portable(config)
    assert is_finished(finished, config)
    assert not is_finished(finished, replace(config, annotations="published"))
    names = json.loads((finished / "metrics.jsonl").read_text().splitlines()[0])
    assert names.keys() >= {"objectness_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss"}


def test_the_files_of_pretrained_weights_identify_a_run_by_name(config):
    here, there = (portable(replace(config, weights=Path(folder) / "vgg.h5")) for folder in ("a", "b"))
    assert here == there and here["weights"] == "vgg.h5" and here != portable(config)


def test_a_folder_with_a_run_is_left_alone(finished, config):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(CheckpointError, match="holds a run already; --resume continues it"):
        train_detector(config, finished)
    with pytest.raises(CheckpointError, match=r"another config \(model\.channels is 8 there, 16 here\)"):
        train_detector(replace(config, model=replace(config.model, channels=16)), finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(("change", "message"), [
    ({"model": cfg.DetectorModelConfig(backbone="alexnet")}, "model.backbone = 'alexnet' is unknown"),
    ({"train": cfg.LoopConfig(batch_size=500)}, "train.batch_size = 500 is impossible: expected 1.."),
])
def test_what_cannot_be_trained_leaves_no_folder(config, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        train_detector(replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_leaves_no_weights_and_goes_on(config, finished, tmp_path, monkeypatch):
    real = detector_runs.fit
    monkeypatch.setattr(detector_runs, "fit", lambda *a, **k: replace(real(*a, **k), interrupted=True))
    assert not train_detector(config, tmp_path)
    assert not (tmp_path / WEIGHTS).exists()
    monkeypatch.undo()
    assert train_detector(config, tmp_path, resume=True)
    assert_same(load_file(tmp_path / WEIGHTS), load_file(finished / WEIGHTS))


def test_training_never_sees_a_test_image(config):
    boxes = voc(config.data.root)
    train, test = detector_split(boxes)
    arrays, held_out = training_arrays(config)
    assert arrays.names == train and held_out is None
    part, held_out = training_arrays(replace(config, fold=0))
    assert set(part.names) | set(held_out.names) == set(train) and not set(part.names) & set(held_out.names)
    measured = side_of_split(boxes, "test", ("wbc",), config.data.root)
    assert measured.names == test and measured.masks[0].any()


def test_boxes_of_ones_own_bring_their_classes(config, tmp_path, monkeypatch):
    own = detection_folder(config.data.root / "BCCD_Dataset" / "BCCD").of_classes(("platelets",))
    asked = {}

    def stopped(model, stream, loss, **options):
        asked.update(options, model=model, stream=stream)
        return FitResult({}, {}, 0, interrupted=True, metrics={})

    monkeypatch.setattr(detector_runs, "fit", stopped)
    assert not train_detector(replace(config, fold=0), tmp_path, detection_set=own)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert tuple(stored["model"]["class_names"]) == asked["model"].config.class_names == ("platelets",)
    resident = asked["stream"].resident
    assert resident["valid"].any() and resident["masks"][resident["valid"]].any(axis=(1, 2)).all()
    assert asked["evaluate"] is not None and not asked["resume"]


def test_weights_of_a_classifier_are_named(finished, tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_file({"w": np.zeros(1, np.float32)}, path,
              metadata={"format": "wbcjax", "config": json.dumps(portable(cfg.ClassifierConfig()))})
    with pytest.raises(CheckpointError, match="the weights of a classifier; `wbcjax predict` takes them"):
        load_detector(path)


def test_the_detector_takes_images_of_any_size_one_or_many(finished):
    detector = Detector.load(finished)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, size, np.uint8) for size in ((64, 96, 3), (200, 100, 3), (30, 50, 3))]
    found = detector(images, score_threshold=0.0, batch_size=1)
    for image, objects in zip(images, found, strict=True):
        height, width = image.shape[:2]
        assert objects.masks.shape == (len(objects), height, width)
        assert (objects.boxes >= 0).all() and (objects.boxes <= [width, height, width, height]).all()
        assert (np.diff(objects.scores) <= 0).all() and (objects.labels == 0).all()
        alone = detector(image, score_threshold=0.0)
        np.testing.assert_array_equal(alone.boxes, objects.boxes)
    assert any(len(objects) for objects in found), "nothing to compare"
    assert detector([]) == []
    assert not any(map(len, detector(images, score_threshold=1.0, batch_size=1)))


def test_the_packaged_detector_finds_drawn_cells(synthetic_root):
    boxes = voc(synthetic_root)
    chosen = boxes.select(detector_split(boxes)[1][:4])
    detector = Detector.load()
    found = detector(chosen.paths)
    assert detector.class_names == ("wbc",)
    for objects, true in zip(found, chosen.boxes_of("wbc"), strict=True):
        assert len(objects) == len(true)
        assert (pairwise_iou(objects.boxes, true).max(axis=0) > 0.6).all()
        assert (objects.masks.sum(axis=(1, 2)) > 0.5 * area(objects.boxes)).all()


def test_detections_come_back_to_the_pixels_of_the_image():
    slots = Detections(boxes=np.array([[10, 5, 30, 25], [0, 0, 50, 40], [1, 1, 9, 9]], np.float32),
                       scores=np.array([0.9, 0.8, 0.7], np.float32), labels=np.array([1, 0, 0], np.int32),
                       valid=np.array([True, True, False]), masks=np.ones((3, 4, 4), np.float32))
    found = in_image_pixels(slots, 0.5, (70, 90), 0.85)
    np.testing.assert_array_equal(found.boxes, [[20, 10, 60, 50]])
    assert found.labels.tolist() == [1] and found.masks.shape == (1, 70, 90)
    assert found.masks[0, 30, 40] and not found.masks[0, 30, 70]
    both = in_image_pixels(slots, 0.5, (70, 90), 0.0)
    np.testing.assert_array_equal(both.boxes[1], [0, 0, 90, 70])  # cut to the image; the slot that is not valid is gone


def test_the_study_writes_results_and_figures(finished, config, runs, tmp_path):
    before = (finished / WEIGHTS).stat().st_mtime_ns
    rows = detector_study([config], experiment="table3_x", runs=runs, results=tmp_path, figures=tmp_path / "figures")
    assert (finished / WEIGHTS).stat().st_mtime_ns == before, "a finished run is reused"
    results = read_results(tmp_path / "table3_x.json")
    assert results["rows"] == rows and {r["variant"] for r in rows} == {"published", "corrected"}
    assert [r["value"] > 0 for r in rows if r["metric"] == "ms_per_image"] == [True]
    assert {table.key for table in build_tables([results])} == {"table3", "table3-cells"}
    assert [entry["file"] for entry in read_index(tmp_path / "figures")] == [
        "mask_rcnn_compact_iou.png", "mask_rcnn_compact_worst.png"]
