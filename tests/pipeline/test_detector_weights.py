"""Which weights a detector starts from, told by the file."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from wbcjax.errors import CheckpointError
from wbcjax.models.mask_rcnn import build_detector
from wbcjax.pipeline import detector_weights
from wbcjax.pipeline.detector_weights import start_from
from wbcjax.training import split


@pytest.fixture(scope="module")
def model(tiny_detector):
    """Not to be changed."""
    return build_detector(tiny_detector)


def arrays(model) -> dict[str, np.ndarray]:
    """Parameters by their path."""
    from flax import nnx

    return {"/".join(map(str, path)): np.asarray(value)
            for path, value in nnx.traversals.flatten_mapping(split(model)[1]).items()}


def test_a_run_of_the_same_classes_gives_everything(detector_weights, tiny_detector):
    other = build_detector(tiny_detector, seed=1)
    assert not np.array_equal(arrays(other)["rpn/conv/kernel"], load_file(detector_weights)["params/rpn/conv/kernel"])
    stored = load_file(detector_weights)
    for path, value in arrays(start_from(other, detector_weights)).items():
        np.testing.assert_array_equal(value, stored[f"params/{path}"], path)


def test_a_run_of_other_classes_gives_all_but_the_predictors(detector_weights, tiny_detector, tmp_path):
    model = build_detector(replace(tiny_detector, class_names=("a", "b")), seed=1)
    before, stored = arrays(model), load_file(detector_weights)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights.safetensors").write_bytes(detector_weights.read_bytes())
    after = arrays(start_from(model, tmp_path / "run"))
    predictors = {f"{layer}/{part}" for layer in ("box/logits", "box/deltas", "mask/logits")
                  for part in ("kernel", "bias")}
    for path, value in after.items():
        np.testing.assert_array_equal(value, before[path] if path in predictors else stored[f"params/{path}"], path)


def test_weights_of_another_architecture_name_what_differs(detector_weights, tiny_detector):
    wider = build_detector(replace(tiny_detector, channels=16))
    with pytest.raises(CheckpointError, match=r"fpn/"):
        start_from(wider, detector_weights)


@pytest.mark.parametrize(("file", "names", "loader"), [
    ("vgg.h5", None, "keras"),
    ("trunk.safetensors", ["conv1.weight"], "load_torchvision_backbone"),
    ("detector.safetensors", ["backbone.body.conv1.weight", "rpn.head.conv.weight"], "load_torchvision_mask_rcnn"),
])
def test_other_libraries_are_told_by_suffix_and_names(file, names, loader, model, tmp_path, monkeypatch):
    called = []
    for name in ("load_torchvision_backbone", "load_torchvision_mask_rcnn"):
        monkeypatch.setattr(detector_weights, name, lambda *_, _name=name, **__: called.append(_name))
    monkeypatch.setattr("wbcjax.pretrained.keras.load_keras_backbone", lambda *_: called.append("keras"))
    path = tmp_path / file
    path.write_bytes(b"")
    if names:
        save_file({name: np.zeros(1, np.float32) for name in names}, path)
    start_from(model, path)
    assert called == [loader]


def test_a_missing_file_is_named(tmp_path, model):
    with pytest.raises(CheckpointError, match=r"absent\.h5: no such weights file"):
        start_from(model, tmp_path / "absent.h5")
