"""Detectors in the loop: one compilation, any devices, prediction in batches, evaluation, two images by heart."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import (
    BoxHeadConfig,
    DetectionAugmentConfig,
    DetectorConfig,
    DetectorModelConfig,
    LoopConfig,
    MaskHeadConfig,
    OptimConfig,
    RPNConfig,
)
from wbcjax.data.detection_stream import DetectionStream
from wbcjax.data.instances import smear_arrays
from wbcjax.data.synthetic import draw
from wbcjax.errors import DataError
from wbcjax.evaluation.iou import best_iou
from wbcjax.models.mask_rcnn import build_detector
from wbcjax.training import fit, merge, split
from wbcjax.training.detector import detection_loss, evaluator, predict_detections
from wbcjax.typing_detection import Detections

CANVAS = (64, 96)
CONFIG = DetectorConfig(
    model=DetectorModelConfig(
        backbone="compact", canvas=CANVAS, levels=(3, 4), channels=8, canonical_size=32.0,
        rpn=RPNConfig(anchor_scales=(4.0,), pre_nms=30, post_nms=20, sample=32),
        box=BoxHeadConfig(pool=3, hidden=16, sample=16, max_detections=5),
        mask=MaskHeadConfig(pool=4, channels=8, convs=1),
    ),
    optim=OptimConfig(learning_rate=0.003, ema_decay=0.9),
    train=LoopConfig(epochs=2, batch_size=4, log_every=1),
)
NO_CHANGE = DetectionAugmentConfig(flip=False, scale=0.0, shift=0.0, brightness=0.0, contrast=0.0, saturation=0.0,
                                   hue=0.0, stain=0.0)


@pytest.fixture(scope="module")
def arrays():
    return smear_arrays(draw(9, (60, 80), seed=1, cells_per_image=(1, 2)), CONFIG.model.class_names, CANVAS)


@pytest.fixture(scope="module")
def model():
    return build_detector(CONFIG.model)


def train(model, arrays, config, workdir, loss_fn):
    """The result of a run, and its metrics line by line."""
    result = fit(model, DetectionStream(arrays, config.train.batch_size, 0), loss_fn,
                 optim=config.optim, train=config.train, workdir=workdir,
                 evaluate=evaluator(model, arrays, batch_size=5))
    return result, [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def start_on(devices, workdir):
    """This file as a program, on so many devices."""
    # Compilation takes longer than everything computed here.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen([sys.executable, __file__, str(workdir)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags})


def result_of(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two epochs leave on one device and on four."""
    folder = tmp_path_factory.mktemp("runs")
    return [result_of(process) for process in [start_on(n, folder / str(n)) for n in (1, 4)]]


def test_the_step_is_traced_once(runs):
    assert [run["traces"] for run in runs] == [1, 1]


def test_a_run_reports_every_loss(runs):
    lines = runs[0]["lines"]
    assert [line["step"] for line in lines] == [1, 1, 2, 2]
    parts = [f"{name}_loss" for name in ("objectness", "rpn_box", "class", "box", "mask")]
    for line in lines[::2]:
        assert line["loss"] == pytest.approx(sum(line[name] for name in parts), rel=1e-5)
    for line in lines[1::2]:
        assert line["valid_loss"] == pytest.approx(1 - line["valid_mean_iou"])


def test_one_and_four_devices_train_alike(runs):
    """Augmentation, sampling, both stages, evaluation: to float32 rounding."""
    one, four = runs
    assert (one["devices"], four["devices"]) == (1, 4)
    for a, b in zip(one["lines"], four["lines"], strict=True):
        for name in {name for name in a if "loss" in name or "iou" in name or "norm" in name}:
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), (name, a["step"])


class Probe:
    """In place of a detector: what it is given, as losses."""

    def losses(self, images, sizes, truth, key):
        return {"pixels": images.sum(), "boxes": truth.boxes.sum(), "draw": jax.random.uniform(key)}


@pytest.mark.parametrize("augment", [NO_CHANGE, CONFIG.augment])
def test_the_loss_is_the_sum_over_augmented_images_of_the_batch(arrays, augment):
    loss_fn = jax.jit(functools.partial(detection_loss(replace(CONFIG, augment=augment)), Probe()))
    resident = DetectionStream(arrays, 4, 0).resident
    index = np.array([5, 2])
    loss, parts = loss_fn(resident, {"index": index}, jax.random.key(0))
    assert float(loss) == pytest.approx(sum(map(float, parts.values())))
    unchanged = [float(parts["pixels_loss"]) == pytest.approx(arrays.images[index].sum() / 255, rel=1e-5),
                 float(parts["boxes_loss"]) == pytest.approx(arrays.boxes[index].sum(), rel=1e-5)]
    assert unchanged == [augment == NO_CHANGE] * 2
    other = loss_fn(resident, {"index": index}, jax.random.key(1))[1]
    assert float(other["draw_loss"]) != float(parts["draw_loss"])


def test_prediction_is_the_same_in_any_batches(model, arrays):
    """Two of four and a third that is not full, and one of nine."""
    found, together = (predict_detections(*split(model), arrays.images, arrays.sizes, batch_size=n) for n in (4, 128))
    assert isinstance(found.boxes, np.ndarray)
    assert [len(field) for field in found] == [9] * 5
    assert found.valid.any(axis=1).all()
    for field, value in zip(found, together, strict=True):
        np.testing.assert_allclose(field, value, rtol=1e-3, atol=1e-3)
    images = jnp.asarray(arrays.images[4:8], jnp.float32) / 255
    now = merge(*split(model), training=False)
    expected = nnx.jit(lambda model: model(images, jnp.asarray(arrays.sizes[4:8])))(now)
    for field, value in zip(found, expected, strict=True):
        np.testing.assert_allclose(field[4:8], value, rtol=1e-3, atol=1e-3)


def test_no_image_gives_no_detections(model):
    found = predict_detections(*split(model), np.zeros((0, *CANVAS, 3), np.uint8), np.zeros((0, 2), np.int32))
    assert found.boxes.shape == (0, 5, 4)


def test_the_evaluator_takes_the_best_box_of_the_class(model, arrays, monkeypatch):
    """The first valid one of the class, however well others fit; an image without one counts as 0."""
    true = [boxes[valid] for boxes, valid in zip(arrays.boxes, arrays.valid, strict=True)]
    boxes = np.zeros((9, 5, 4), np.float32)
    boxes[:, 0] = [cells[0] + (0, 0, 6, 3) for cells in true]
    boxes[:, 1] = [cells[0] for cells in true]
    valid = np.zeros((9, 5), bool)
    valid[:8, :2] = True
    labels = np.zeros((9, 5), np.int32)
    labels[3, 0] = 1  # of another class: the second box is the best
    found = Detections(boxes, np.ones((9, 5), np.float32), labels, valid, np.zeros((9, 5, 8, 8), np.float32))
    monkeypatch.setattr("wbcjax.training.detector.predict_detections", lambda *args, **options: found)
    predicted = [*boxes[:8, 0], None]
    predicted[3] = boxes[3, 1]
    iou = best_iou(predicted, true)
    assert iou[3] == 1
    assert 0.5 < iou[0] < 1
    assert evaluator(model, arrays)({}, {}) == {
        "loss": pytest.approx(1 - iou.mean()), "mean_iou": pytest.approx(iou.mean()),
        "median_iou": pytest.approx(np.median(iou)), "min_iou": 0,
    }


def test_an_evaluation_of_nothing_is_refused(model, arrays):
    with pytest.raises(DataError, match="the model finds wbc; it cannot be judged by its boxes of 'platelets'"):
        evaluator(model, arrays, class_name="platelets")
    with pytest.raises(DataError, match="no image of the validation fold has a box of 'wbc'"):
        evaluator(model, replace(arrays, valid=np.zeros_like(arrays.valid)))


@pytest.mark.slow
def test_two_images_are_learnt_by_heart(tmp_path):
    larger = replace(CONFIG.model, canvas=(96, 128), channels=32, box=replace(CONFIG.model.box, pool=5, hidden=64),
                     mask=MaskHeadConfig(pool=7, channels=16, convs=1))
    config = DetectorConfig(model=larger, augment=NO_CHANGE,
                            optim=OptimConfig(learning_rate=0.003, weight_decay=0.0, ema_decay=None),
                            train=LoopConfig(epochs=200, batch_size=2, log_every=1, eval_every=200,
                                             checkpoint_every=200))
    arrays = smear_arrays(draw(2, (96, 128), seed=3), config.model.class_names, config.model.canvas)
    model = build_detector(config.model)
    result, lines = train(model, arrays, config, tmp_path, detection_loss(config))
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-10:]) < 0.3 * losses[0]
    found = predict_detections(split(model)[0], result.params, result.stats, arrays.images, arrays.sizes)
    for boxes, scores, masks, true in zip(found.boxes, found.scores, found.masks, arrays.boxes, strict=True):
        assert scores[0] > 0.9
        assert best_iou([boxes[0]], [true[:1]])[0] > 0.75
        assert masks[0, 6:8, 6:8].min() > 0.5 > masks[0, [0, 0, -1, -1], [0, -1, 0, -1]].max()  # a disc in its box


if __name__ == "__main__":
    cells = smear_arrays(draw(6, (60, 80), seed=1), CONFIG.model.class_names, CANVAS)
    traces, loss = [], detection_loss(CONFIG)

    def counted(*args):
        traces.append(1)
        return loss(*args)

    _, metrics = train(build_detector(CONFIG.model), cells, CONFIG, Path(sys.argv[1]), counted)
    print(json.dumps({"devices": jax.device_count(), "traces": len(traces), "lines": metrics}))
