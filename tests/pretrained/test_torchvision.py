"""torchvision's weights: files, names old and new, and the batch norms' epsilon. Values: tests/parity."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from wbcjax.config import BoxHeadConfig, DetectorModelConfig, MaskHeadConfig, ModelConfig
from wbcjax.errors import CheckpointError
from wbcjax.models import build
from wbcjax.models.backbone_classifier import BackboneClassifier
from wbcjax.models.mask_rcnn import MaskRCNN, build_detector
from wbcjax.pretrained.torchvision import (
    load_torchvision_backbone,
    load_torchvision_classifier,
    load_torchvision_mask_rcnn,
    read_state,
)

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "classifiers.npz"
CONFIG = DetectorModelConfig(
    backbone="resnet18", norm="frozen", preprocessing="imagenet", canvas=(32, 64), channels=4, levels=(2, 3),
    box=BoxHeadConfig(pool=2, hidden=5), mask=MaskHeadConfig(pool=2, channels=3, convs=2),
)
CLASSES = 2  # with the background


def trunk_shapes(prefix=""):
    """Names and shapes of a ResNet-18 in torchvision, without its classifier."""
    shapes = {}

    def norm(name, width):
        shapes[f"{prefix}{name}.num_batches_tracked"] = ()
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{prefix}{name}.{part}"] = (width,)

    shapes[f"{prefix}conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for i, inputs in enumerate((before, width)):
            block = f"layer{layer}.{i}"
            shapes[f"{prefix}{block}.conv1.weight"] = (width, inputs, 3, 3)
            shapes[f"{prefix}{block}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{block}.bn1", width)
            norm(f"{block}.bn2", width)
            if inputs != width:
                shapes[f"{prefix}{block}.downsample.0.weight"] = (width, inputs, 1, 1)
                norm(f"{block}.downsample.1", width)
        before = width
    return shapes


def detector_shapes():
    """Those of a Mask R-CNN like CONFIG."""
    weights = {
        "backbone.fpn.inner_blocks.0.0": (4, 64, 1, 1),
        "backbone.fpn.inner_blocks.1.0": (4, 128, 1, 1),
        "backbone.fpn.layer_blocks.0.0": (4, 4, 3, 3),
        "backbone.fpn.layer_blocks.1.0": (4, 4, 3, 3),
        "rpn.head.conv.0.0": (4, 4, 3, 3),
        "rpn.head.cls_logits": (3, 4, 1, 1),
        "rpn.head.bbox_pred": (12, 4, 1, 1),
        "roi_heads.box_head.fc6": (5, 4 * 2 * 2),
        "roi_heads.box_head.fc7": (5, 5),
        "roi_heads.box_predictor.cls_score": (CLASSES, 5),
        "roi_heads.box_predictor.bbox_pred": (4 * CLASSES, 5),
        "roi_heads.mask_head.0.0": (3, 4, 3, 3),
        "roi_heads.mask_head.1.0": (3, 3, 3, 3),
        "roi_heads.mask_predictor.conv5_mask": (3, 3, 2, 2),
        "roi_heads.mask_predictor.mask_fcn_logits": (CLASSES, 3, 1, 1),
    }
    shapes = trunk_shapes("backbone.body.")
    for name, shape in weights.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": (3 if "conv5_mask" in name else shape[0],)}
    return shapes


def state(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}


def arrays(module):
    """Copies of every array by path."""
    flat = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    return {"/".join(map(str, path)): np.array(variable[...]) for path, variable in flat}


@pytest.fixture(scope="module")
def model():
    return build_detector(CONFIG)


def test_detector(model):
    """The transforms of the layers that are not plain convolutions, spelled out."""
    source = state(detector_shapes())
    assert load_torchvision_mask_rcnn(model, source, epsilon=1e-5) is model
    ours = arrays(model)
    fc6 = source["roi_heads.box_head.fc6.weight"]
    features = np.random.default_rng(1).normal(size=(4, 2, 2))  # channels first
    np.testing.assert_allclose(features.transpose(1, 2, 0).ravel() @ ours["box/fc6/kernel"], fc6 @ features.ravel(),
                               rtol=1e-5)
    np.testing.assert_array_equal(ours["mask/deconv/kernel"][1, 0, 2], source[
        "roi_heads.mask_predictor.conv5_mask.weight"][2, :, 1, 0])
    np.testing.assert_array_equal(ours["mask/logits/kernel"][:, 1], source[
        "roi_heads.mask_predictor.mask_fcn_logits.weight"][1, :, 0, 0])
    np.testing.assert_array_equal(ours["backbone/layer2/0/downsample_bn/var"], source[
        "backbone.body.layer2.0.downsample.1.running_var"])


def test_names_of_the_published_weights(model):
    """They are older than torchvision 0.13, which renamed some layers and reads both."""
    source = state(detector_shapes())
    load_torchvision_mask_rcnn(model, source)
    new = arrays(model)
    old = {}
    for name, array in source.items():
        name = re.sub(r"(_blocks\.\d)\.0", r"\1", name).replace("rpn.head.conv.0.0", "rpn.head.conv")
        name = re.sub(r"mask_head\.(\d)\.0", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}", name)
        if not name.endswith("num_batches_tracked"):
            old[name] = array
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.1.bias", "roi_heads.mask_head.mask_fcn2.bias"} < set(old)
    load_torchvision_mask_rcnn(model, old)
    for path, array in arrays(model).items():
        np.testing.assert_array_equal(array, new[path])


def test_epsilon_of_the_published_weights(model):
    """Channels whose variance is far below 1e-5 are the ones that epsilon changes."""
    source = state(detector_shapes())
    norm = {part: source[f"backbone.body.bn1.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
    norm["running_var"][:3] = [1e-12, 1e-8, 1e-5]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2, 2, 64)).astype(np.float32) * 1e-3)
    outputs = []
    for epsilon in (0.0, 1e-5):
        load_torchvision_mask_rcnn(model, source, epsilon=epsilon)
        deviation = np.sqrt(norm["running_var"].astype(np.float64) + epsilon)
        expected = (x - norm["running_mean"]) / deviation * norm["weight"] + norm["bias"]
        outputs.append(np.asarray(model.backbone.stem.bn1(x)))
        np.testing.assert_allclose(outputs[-1], expected, rtol=1e-5, atol=1e-6)
    ratio = outputs[0] / outputs[1]  # of the inverse deviations
    np.testing.assert_allclose(ratio[..., :3].mean(axis=(0, 1, 2)), [1e7**0.5, 1001**0.5, 2**0.5], rtol=0.02)


def test_other_classes(model):
    """Predictors of another number of classes stay as they are; everything else is loaded."""
    shapes = detector_shapes()
    for name in shapes:
        if "predictor" in name and "conv5_mask" not in name:
            shapes[name] = (91 * (4 if "bbox" in name else 1), *shapes[name][1:])
    before = arrays(model)
    with pytest.raises(CheckpointError, match=r"cls_score\.weight \(91, 5\) does not fit box/logits/kernel"):
        load_torchvision_mask_rcnn(model, state(shapes, seed=1))
    np.testing.assert_array_equal(arrays(model)["rpn/conv/bias"], before["rpn/conv/bias"])
    load_torchvision_mask_rcnn(model, state(shapes, seed=1), predictors=False)
    changed = {path for path, array in arrays(model).items() if not np.array_equal(array, before[path])}
    kept = {"box/logits/kernel", "box/logits/bias", "box/deltas/kernel", "box/deltas/bias", "mask/logits/kernel",
            "mask/logits/bias"}
    assert changed == set(before) - kept


def test_another_architecture(model):
    """A deeper ResNet: what is left over and what does not fit, by name."""
    source = state(detector_shapes())
    source["backbone.body.layer1.2.conv1.weight"] = np.ones((64, 64, 3, 3), np.float32)
    del source["rpn.head.bbox_pred.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_torchvision_mask_rcnn(model, source)
    assert str(caught.value).splitlines()[1:] == [
        "  backbone.body.layer1.2.conv1.weight (64, 64, 3, 3) has no place: the model has no "
        "backbone/layer1/2/conv1/kernel",
        "  nothing for rpn/deltas/bias (12,)",
    ]


def shapes_of(norm):
    """A model without arrays."""
    return nnx.eval_shape(lambda: MaskRCNN(dataclasses.replace(CONFIG, norm=norm), rngs=nnx.Rngs(0)))


def test_batch_normalisation():
    """Scales and biases are trained there; a model of shapes becomes a real one."""
    model, source = shapes_of("batch"), state(detector_shapes())
    load_torchvision_mask_rcnn(model, source, epsilon=1e-5)
    norm = model.backbone.layer1[1].bn2
    assert isinstance(norm.scale, nnx.Param) and isinstance(norm.var, nnx.BatchStat)
    np.testing.assert_array_equal(norm.scale[...], source["backbone.body.layer1.1.bn2.weight"])
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(nnx.state(model)))


def test_group_normalisation():
    """Has no statistics: said in one line, with the field to change."""
    model = shapes_of("group")
    with pytest.raises(CheckpointError, match=r"state dict: .*batch statistics.*model\.norm to frozen"):
        load_torchvision_mask_rcnn(model, state(detector_shapes()))


def test_backbone(model, tmp_path):
    """From a file, without the classifier that it holds as well."""
    source = state(trunk_shapes(), seed=2) | {"fc.weight": np.ones((10, 512)), "fc.bias": np.ones(10)}
    save_file(source, tmp_path / "resnet18.safetensors")
    assert load_torchvision_backbone(model.backbone, tmp_path / "resnet18.safetensors") is model.backbone
    np.testing.assert_array_equal(model.backbone.stem.bn1.mean[...], source["bn1.running_mean"])
    np.testing.assert_array_equal(arrays(model)["backbone/layer4/1/conv2/kernel"][0, 2],
                                  source["layer4.1.conv2.weight"][:, :, 0, 2].T)


def test_files(tmp_path, monkeypatch):
    tensors = {"a": np.arange(3, dtype=np.float32)}
    save_file(tensors, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read_state(str(tmp_path / "a.safetensors"))["a"], tensors["a"])
    np.testing.assert_array_equal(read_state({"model": tensors, "epoch": 3})["a"], tensors["a"])
    with pytest.raises(CheckpointError, match=r"none\.pth: no such weights file"):
        read_state(tmp_path / "none.pth")
    (tmp_path / "b.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"b\.safetensors: not a safetensors file, or damaged"):
        read_state(tmp_path / "b.safetensors")
    (tmp_path / "c.pth").write_bytes(b"damaged")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"c\.pth: PyTorch is needed to read it: pip install torch, or convert"):
        read_state(tmp_path / "c.pth")


def test_pytorch_files(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"a": torch.arange(3.0).bfloat16()}, "epoch": 3}, tmp_path / "a.pth")
    np.testing.assert_array_equal(read_state(tmp_path / "a.pth")["a"], [0, 1, 2])
    (tmp_path / "b.pth").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"b\.pth: not a PyTorch file of tensors alone, or damaged"):
        read_state(tmp_path / "b.pth")
    torch.save({"a": Secret()}, tmp_path / "c.pth")  # would run code when it is unpickled
    with pytest.raises(CheckpointError, match=r"c\.pth: not a PyTorch file of tensors alone"):
        read_state(tmp_path / "c.pth")


class Secret:
    """Not a tensor."""


def classifier(name, **fields):
    """Shapes alone, which loading fills."""
    config = ModelConfig(name=name, num_classes=fields.pop("num_classes", 3), image_size=(75, 75), **fields)
    return nnx.eval_shape(lambda: BackboneClassifier(config, rngs=nnx.Rngs(0)))


def published(key):
    """Names and shapes of a network, as its library wrote them, each array with a value of its own."""
    with np.load(GOLDEN) as file:
        shapes = json.loads(str(file["shapes"]))[key]
    return {name: np.broadcast_to(np.float32(1 + i / 1000), shape) for i, (name, shape) in enumerate(shapes.items())}


def test_classifier():
    source = state(trunk_shapes(), seed=3) | {"fc.weight": np.ones((3, 512)), "fc.bias": np.arange(3.0)}
    model = classifier("resnet18")
    assert load_torchvision_classifier(model, source) is model
    ours = arrays(model)
    np.testing.assert_array_equal(ours["classifier/bias"], [0, 1, 2])
    np.testing.assert_array_equal(ours["backbone/layer4/1/bn2/var"], source["layer4.1.bn2.running_var"])
    with pytest.raises(CheckpointError, match=r"nothing for classifier/kernel \(512, 3\)"):
        load_torchvision_classifier(model, state(trunk_shapes()))
    np.testing.assert_array_equal(model.classifier.bias[...], [0, 1, 2])


def test_classifier_for_other_classes():
    source = state(trunk_shapes(), seed=3) | {"fc.weight": np.ones((10, 512)), "fc.bias": np.ones(10)}
    model = build(ModelConfig(name="resnet18", num_classes=3))
    before = arrays(model)
    with pytest.raises(CheckpointError, match=r"fc\.weight \(10, 512\) does not fit classifier/kernel"):
        load_torchvision_classifier(model, source)
    load_torchvision_classifier(model, {"state_dict": source}, head=False)
    changed = {path for path, array in arrays(model).items() if not np.array_equal(array, before[path])}
    assert changed == set(before) - {"classifier/kernel", "classifier/bias"}


def test_epsilon_of_a_classifier():
    """What the source adds to the variance goes into the scale; None changes nothing."""
    source = state(trunk_shapes(), seed=3) | {"fc.weight": np.ones((3, 512)), "fc.bias": np.ones(3)}
    model = classifier("resnet18")
    scales = []
    for epsilon in (None, 1e-3):
        scales.append(arrays(load_torchvision_classifier(model, source, epsilon=epsilon))["backbone/stem/bn1/scale"])
    np.testing.assert_array_equal(scales[0], source["bn1.weight"])
    variance = source["bn1.running_var"]
    np.testing.assert_allclose(scales[1] / scales[0], np.sqrt((variance + 1e-5) / (variance + 1e-3)), rtol=1e-6)


def test_dense_head(monkeypatch):
    """VGG16's two dense layers where both have them, with features in our order."""
    monkeypatch.setattr("wbcjax.models.backbone_classifier.DENSE_UNITS", 8)
    source = published("torchvision-vgg16")
    weight = np.random.default_rng(0).normal(size=(8, 512 * 7 * 7)).astype(np.float32)
    source |= {"classifier.0.weight": weight, "classifier.0.bias": np.ones(8, np.float32),
               "classifier.3.weight": np.ones((8, 8), np.float32), "classifier.3.bias": np.full(8, 2, np.float32),
               "classifier.6.weight": np.ones((1000, 8), np.float32), "classifier.6.bias": np.ones(1000, np.float32)}
    dense = classifier("vgg16", pool="dense", num_classes=1000)
    load_torchvision_classifier(dense, source)
    features = np.random.default_rng(1).normal(size=(512, 7, 7)).astype(np.float32)
    np.testing.assert_allclose(features.transpose(1, 2, 0).ravel() @ dense.hidden[0].kernel[...],
                               weight @ features.ravel(), rtol=1e-3, atol=1e-3)
    pooled = classifier("vgg16", num_classes=1000)
    with pytest.raises(CheckpointError, match=r"two dense layers, this model's has none: set model\.pool to dense"):
        load_torchvision_classifier(pooled, source)
    pooled.classifier = nnx.Linear(512, 3, rngs=nnx.Rngs(0))
    load_torchvision_classifier(pooled, source, head=False)
    other = classifier("vgg16", pool="dense")
    other.classifier = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
    load_torchvision_classifier(other, source, head=False)
    np.testing.assert_array_equal(other.hidden[1].bias[...], np.full(8, 2))
    trunk = {name: 2 * x for name, x in source.items() if "features" in name}
    load_torchvision_classifier(other, trunk, head=False)  # keeps what the source lacks
    np.testing.assert_array_equal(other.hidden[1].bias[...], np.full(8, 2))
    np.testing.assert_array_equal(other.backbone.block1.convs[0].bias[...], trunk["features.0.bias"])


def test_auxiliary_head():
    """InceptionV3's is ignored where the model has none, and loaded up to its last layer for other classes."""
    source = published("torchvision-inception_v3-aux")
    load_torchvision_classifier(classifier("inception_v3", num_classes=7), source)
    model = classifier("inception_v3", num_classes=7, aux=True)
    load_torchvision_classifier(model, source)
    np.testing.assert_array_equal(model.aux.logits.bias[...], source["AuxLogits.fc.bias"])
    without = {name: x for name, x in source.items() if not name.startswith("AuxLogits")}
    with pytest.raises(CheckpointError, match="nothing for aux/conv0/bn/bias"):
        load_torchvision_classifier(model, without)
    before = arrays(model)
    doubled = {name: 2 * x for name, x in source.items()}
    load_torchvision_classifier(model, {name: doubled[name] for name in without}, head=False)
    kept = {path for path, array in arrays(model).items() if np.array_equal(array, before[path])}
    assert kept == {path for path in before if path.startswith(("aux/", "classifier/"))}
    load_torchvision_classifier(model, doubled, head=False)
    kept = {path for path, array in arrays(model).items() if np.array_equal(array, before[path])}
    assert kept == {path for path in before if path.startswith(("aux/logits/", "classifier/"))}


def test_networks_that_it_has_not():
    with pytest.raises(CheckpointError, match=r"as torchvision has it: set model\.flavour to torchvision"):
        load_torchvision_classifier(classifier("resnet50", flavour="keras"), {})
    with pytest.raises(CheckpointError, match=r"the state dict: no weights of torchvision or timm .* Compact"):
        load_torchvision_classifier(classifier("compact"), {})
