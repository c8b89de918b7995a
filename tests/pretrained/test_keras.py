"""Keras' weights: files of every age, VGG16 against a convolution in NumPy, what ResNet50's biases and epsilon become,
and what is wrong with a file. Values: tests/parity."""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import DetectorModelConfig, ModelConfig
from wbcjax.errors import CheckpointError
from wbcjax.models import build
from wbcjax.models.backbone_classifier import BackboneClassifier
from wbcjax.models.backbones import BACKBONES
from wbcjax.models.preprocessing import preprocess
from wbcjax.models.vgg import CHANNELS, CONVS
from wbcjax.pretrained import keras_file
from wbcjax.pretrained.keras import load_keras_backbone, load_keras_classifier
from wbcjax.pretrained.keras_file import read_keras

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "classifiers.npz"
CONFIG = DetectorModelConfig(backbone="vgg16", preprocessing="caffe")


@pytest.fixture(scope="module")
def backbone():
    return nnx.jit(lambda: BACKBONES["vgg16"](CONFIG, rngs=nnx.Rngs(0)))()


def arrays() -> dict[str, np.ndarray]:
    rng, inputs, named = np.random.default_rng(0), 3, {}
    for block, (outputs, convs) in enumerate(zip(CHANNELS, CONVS, strict=True), 1):
        for i in range(1, convs + 1):
            layer = f"block{block}_conv{i}"
            scale = np.sqrt(2 / (9 * inputs))
            named[f"{layer}/{layer}_W_1:0"] = (rng.standard_normal((3, 3, inputs, outputs)) * scale).astype(np.float32)
            named[f"{layer}/{layer}_b_1:0"] = rng.standard_normal(outputs).astype(np.float32)
            inputs = outputs
    return named


def write(path: Path, named: dict[str, np.ndarray], group: str = "") -> Path:
    with h5py.File(path, "w") as file:
        for name, array in named.items():
            file[f"{group}{name}"] = array
    return path


def block1(images: np.ndarray, named: dict[str, np.ndarray]) -> np.ndarray:
    """Both convolutions of the first block, by loops over the taps."""
    x = images
    for layer in ("block1_conv1", "block1_conv2"):
        kernel, bias = named[f"{layer}/{layer}_W_1:0"], named[f"{layer}/{layer}_b_1:0"]
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
        y = sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))
        x = np.maximum(y + bias, 0)
    return x


def test_every_array_finds_its_place(backbone, tmp_path):
    named = arrays()
    old_names = write(tmp_path / "old.h5", named)
    new = {name.replace("_W_1:0", "/kernel:0").replace("_b_1:0", "/bias:0"): array for name, array in named.items()}
    new["fc1/fc1/kernel:0"] = np.ones((2, 2), np.float32)  # the top is of no use here
    new_names = write(tmp_path / "new.h5", new, group="model_weights/")
    images = np.random.default_rng(1).random((1, 7, 9, 3), np.float32)
    for path in (old_names, new_names):
        loaded = load_keras_backbone(nnx.clone(backbone), path)
        np.testing.assert_array_equal(loaded.block5.convs[2].kernel[...], named["block5_conv3/block5_conv3_W_1:0"])
        np.testing.assert_allclose(jax.jit(loaded.block1)(images), block1(images, named), rtol=1e-4, atol=1e-4)


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_changed(backbone, tmp_path):
    named = arrays()
    del named["block2_conv1/block2_conv1_b_1:0"]
    named["block3_conv1/block3_conv1_W_1:0"] = np.ones((3, 3, 64, 256), np.float32)
    named["extra/kernel:0"] = np.ones(3, np.float32)
    before = np.asarray(backbone.block1.convs[0].kernel[...])
    with pytest.raises(CheckpointError) as error:
        load_keras_backbone(backbone, write(tmp_path / "odd.h5", named))
    for part in ("odd.h5", "block2/convs/0/bias", "block3/convs/0/kernel", "extra/kernel"):
        assert part in str(error.value)
    np.testing.assert_array_equal(backbone.block1.convs[0].kernel[...], before)


def test_files_that_are_none(backbone, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.h5: no such weights file"):
        load_keras_backbone(backbone, tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.h5: not an HDF5 file"):
        load_keras_backbone(backbone, tmp_path / "text.h5")
    compact = nnx.jit(lambda: BACKBONES["compact"](DetectorModelConfig(backbone="compact"), rngs=nnx.Rngs(0)))()
    with pytest.raises(CheckpointError, match=r"none\.h5: no weights of Keras .* Compact: set model\.name"):
        load_keras_backbone(compact, tmp_path / "none.h5")


def test_the_published_weights(backbone, vgg16_weights):
    loaded = load_keras_backbone(nnx.clone(backbone), vgg16_weights)
    assert sum(x.size for x in jax.tree.leaves(nnx.state(loaded, nnx.Param))) == 14_714_688
    # An edge between dark and light: an image it knows gives values of hundreds, no explosion and no silence.
    images = np.zeros((1, 64, 64, 3), np.float32)
    images[:, :, 32:] = 1
    maps = jax.jit(loaded.features)(preprocess(jnp.asarray(images), "caffe"))
    for name in ("c1", "c2", "c3"):
        assert 1 < float(np.asarray(maps[name]).std()) < 1000
    classifier = build(ModelConfig(name="vgg16", preprocessing="caffe", num_classes=3))
    before = np.asarray(classifier.classifier.kernel[...])
    load_keras_classifier(classifier, vgg16_weights, head=False)
    np.testing.assert_array_equal(classifier.classifier.kernel[...], before)
    np.testing.assert_array_equal(classifier.backbone.block5.convs[2].bias[...], loaded.block5.convs[2].bias[...])
    with pytest.raises(CheckpointError, match="nothing for classifier/kernel"):
        load_keras_classifier(classifier, vgg16_weights)


LAYERS = {
    "conv1_conv": {"kernel": np.ones((1, 1, 3, 2), np.float32), "bias": np.arange(2, dtype=np.float32)},
    "conv1_bn": {part: np.full(2, i, np.float32)
                 for i, part in enumerate(("gamma", "beta", "moving_mean", "moving_variance"))},
    "batch_normalization": {part: np.full(2, i, np.float32)
                            for i, part in enumerate(("beta", "moving_mean", "moving_variance"))},
    "predictions": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)},
}
KINDS = {"conv1_conv": "conv2d", "conv1_bn": "batch_normalization_1", "batch_normalization": "batch_normalization",
         "predictions": "dense"}


def write_numbered(path, named=True):
    """As Keras 3 writes ``.weights.h5``: in groups by the layers' classes."""
    with h5py.File(path, "w") as file:
        for layer, parts in LAYERS.items():
            group = file.create_group(f"layers/{KINDS[layer]}/vars")
            if named:
                group.attrs["name"] = layer
            for i, array in enumerate(parts.values()):
                group[str(i)] = array
        file.create_group("vars").attrs["name"] = "resnet50"
        file["optimizer/vars/0"] = np.ones(3)
    return path


def test_files_of_every_age(tmp_path):
    flat = {f"{layer}/{part}": array for layer, parts in LAYERS.items() for part, array in parts.items()}
    old = {f"{name.split('/')[0]}/{name}:0": array for name, array in flat.items()}
    without = {f"{name.split('/')[0]}/{name}": array for name, array in flat.items()}
    files = [write(tmp_path / "weights.h5", old), write(tmp_path / "model.h5", without, group="model_weights/"),
             write_numbered(tmp_path / "new.weights.h5")]
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
        file.writestr("config.json", "{}")
        file.write(tmp_path / "new.weights.h5", "model.weights.h5")
    for path in (*files, tmp_path / "model.keras"):
        arrays = read_keras(path)
        assert set(arrays) == set(flat), path
        for name, array in flat.items():
            np.testing.assert_array_equal(arrays[name], array)


def test_files_whose_arrays_have_no_names(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.weights\.h5: layers/.* has no name; save the model again"):
        read_keras(write_numbered(tmp_path / "a.weights.h5", named=False))
    twice = {"conv1_conv/a/kernel:0": np.ones(2), "conv1_conv/b/kernel:0": np.ones(2)}
    with pytest.raises(CheckpointError, match=r"two arrays for conv1_conv/kernel"):
        read_keras(write(tmp_path / "twice.h5", twice))
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(CheckpointError, match=r"b\.keras: not an HDF5 file"):
        read_keras(tmp_path / "b.keras")


def test_a_file_at_which_hdf5_hangs_or_crashes_is_refused(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "damaged.weights.h5")
    content = bytearray(path.read_bytes())
    size = content.index(b"GCOL") + 24  # of the first string of the heap; what follows it is then no length, but 0
    content[size : size + 8] = (255).to_bytes(8, "little")
    path.write_bytes(content)
    monkeypatch.setattr(keras_file, "SECONDS", 3)
    with pytest.raises(CheckpointError, match=r"damaged\.weights\.h5: damaged, for it was not read in 3 s"):
        read_keras(path)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(CheckpointError, match=r"damaged\.weights\.h5: damaged, for reading it ended with status 1"):
        read_keras(path)


def published(key):
    """Names and shapes of a network as Keras has it, each array with a value of its own."""
    with np.load(GOLDEN) as file:
        shapes = json.loads(str(file["shapes"]))[key]
    return {name: np.broadcast_to(np.float32(1 + i / 1000), shape) for i, (name, shape) in enumerate(shapes.items())}


def classifier(name, **fields):
    """Shapes alone, which loading fills."""
    config = ModelConfig(name=name, num_classes=7, image_size=(75, 75), **fields)
    return nnx.eval_shape(lambda: BackboneClassifier(config, rngs=nnx.Rngs(0)))


def test_biases_and_epsilon_of_resnet50():
    """A bias before a batch norm, and 1.001e-5 beside the smallest variance."""
    source, rng = published("keras-resnet50"), np.random.default_rng(0)
    bias, mean, beta = (rng.normal(size=64).astype(np.float32) for _ in range(3))
    variance, gamma = rng.uniform(0, 1e-5, 64).astype(np.float32), rng.uniform(0.5, 2, 64).astype(np.float32)
    source |= {"conv1_conv/bias": bias, "conv1_bn/moving_mean": mean, "conv1_bn/beta": beta,
               "conv1_bn/moving_variance": variance, "conv1_bn/gamma": gamma}
    model = classifier("resnet50", flavour="keras")
    model.eval()
    load_keras_classifier(model, source)
    x = rng.normal(size=(1, 2, 2, 64)).astype(np.float32)
    expected = (x.astype(np.float64) + bias - mean) / np.sqrt(variance.astype(np.float64) + 1.001e-5) * gamma + beta
    np.testing.assert_allclose(model.backbone.stem.bn1(x), expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(model.backbone.layer3[5].conv2.kernel[...], source["conv4_block6_2_conv/kernel"])
    np.testing.assert_array_equal(model.classifier.kernel[...], source["predictions/kernel"])
    del source["conv1_bn/moving_mean"]
    with pytest.raises(CheckpointError, match=r"(?s)conv1_conv/bias .* no name.*nothing for backbone/stem/bn1/mean"):
        load_keras_classifier(model, source)


def test_trunk_of_a_detector():
    config = DetectorModelConfig(backbone="resnet50", norm="frozen", flavour="keras")
    trunk = nnx.eval_shape(lambda: BACKBONES["resnet50"](config, rngs=nnx.Rngs(0)))
    source = published("keras-resnet50")
    load_keras_backbone(trunk, source)
    np.testing.assert_array_equal(trunk.layer2[0].downsample_conv.kernel[...], source["conv3_block1_0_conv/kernel"])


def test_networks_that_it_has_not():
    with pytest.raises(CheckpointError, match=r"as keras has it: set model\.flavour to keras"):
        load_keras_classifier(classifier("inception_v3"), {})
    with pytest.raises(CheckpointError, match=r"the arrays: no weights of Keras are read into this ResNet"):
        load_keras_classifier(classifier("resnet18"), {})


@pytest.mark.slow
def test_what_keras_writes(tmp_path):
    """All three of its formats, of a network whose layers have names of their own, and of one whose layers have not."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    for make, ours in ((keras.applications.ResNet50, "resnet50"), (keras.applications.InceptionV3, "inception_v3")):
        theirs = make(weights=None, classes=7)
        theirs.save(tmp_path / "model.keras")
        theirs.save_weights(tmp_path / "model.weights.h5")
        theirs.save(tmp_path / "model.h5")
        for file in ("model.keras", "model.weights.h5", "model.h5"):
            arrays = read_keras(tmp_path / file)
            assert set(arrays) == {weight.path for weight in theirs.weights}
            for weight in theirs.weights:
                np.testing.assert_array_equal(arrays[weight.path], weight.numpy())
            load_keras_classifier(classifier(ours, flavour="keras"), tmp_path / file)
