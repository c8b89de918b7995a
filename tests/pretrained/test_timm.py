"""timm's weights: where its names and shapes differ from torchvision's. Values: tests/parity."""

import numpy as np
import pytest
from flax import nnx

from wbcjax.config import ModelConfig
from wbcjax.errors import CheckpointError
from wbcjax.models.backbone_classifier import BackboneClassifier
from wbcjax.models.vgg import CHANNELS, CONVS
from wbcjax.pretrained.timm import load_timm_classifier
from wbcjax.pretrained.torchvision import load_torchvision_classifier

UNITS = 6


def trunk():
    """VGG16's convolutions by the names of both, with next to no memory."""
    arrays, number, inputs = {}, 0, 3
    for outputs, convs in zip(CHANNELS, CONVS, strict=True):
        for _ in range(convs):
            arrays[f"features.{number}.weight"] = np.broadcast_to(np.float32(number), (outputs, inputs, 3, 3))
            arrays[f"features.{number}.bias"] = np.full(outputs, number, np.float32)
            number, inputs = number + 2, outputs
        number += 1
    return arrays


def model(**fields):
    config = ModelConfig(name="vgg16", pool="dense", num_classes=3, **fields)
    return nnx.eval_shape(lambda: BackboneClassifier(config, rngs=nnx.Rngs(0)))


def test_dense_layers_that_are_convolutions(monkeypatch):
    monkeypatch.setattr("wbcjax.models.backbone_classifier.DENSE_UNITS", UNITS)
    rng = np.random.default_rng(0)
    fc6, fc7, last = (rng.normal(size=shape).astype(np.float32) for shape in ((UNITS, 512 * 49), (UNITS, UNITS),
                                                                            (3, UNITS)))
    bias = np.arange(UNITS, dtype=np.float32)
    theirs = {"pre_logits.fc1.weight": fc6.reshape(UNITS, 512, 7, 7), "pre_logits.fc1.bias": bias,
              "pre_logits.fc2.weight": fc7[:, :, None, None], "pre_logits.fc2.bias": bias + 1,
              "head.fc.weight": last, "head.fc.bias": bias[:3]}
    torchvision = {"classifier.0.weight": fc6, "classifier.0.bias": bias, "classifier.3.weight": fc7,
                   "classifier.3.bias": bias + 1, "classifier.6.weight": last, "classifier.6.bias": bias[:3]}
    ours = nnx.to_flat_state(nnx.state(load_timm_classifier(model(), trunk() | theirs)))
    expected = nnx.to_flat_state(nnx.state(load_torchvision_classifier(model(), trunk() | torchvision)))
    assert len(ours) == len(expected)
    for (path, array), (_, same) in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(array[...], same[...], err_msg=str(path))
    with pytest.raises(CheckpointError, match=r"classifier\.0\.weight .* is no name of this architecture"):
        load_timm_classifier(model(), trunk() | torchvision)


def test_networks_of_one_name_with_another_stem():
    """resnet50d has three convolutions in its stem."""
    config = ModelConfig(name="resnet18", num_classes=3)
    resnet = nnx.eval_shape(lambda: BackboneClassifier(config, rngs=nnx.Rngs(0)))
    with pytest.raises(CheckpointError, match=r"conv1\.0\.weight .* is no name of this architecture"):
        load_timm_classifier(resnet, {"conv1.0.weight": np.ones((32, 3, 3, 3), np.float32)})
