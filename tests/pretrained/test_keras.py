"""VGG16 of Keras: every array in its place, against a convolution in NumPy, and what is wrong with a file."""

import os
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import DetectorModelConfig
from wbcjax.errors import CheckpointError
from wbcjax.models.backbones import BACKBONES
from wbcjax.models.preprocessing import preprocess
from wbcjax.models.vgg import CHANNELS, CONVS
from wbcjax.pretrained.keras import load_keras_backbone

FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
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
    for part in ("odd.h5", "block2/convs/0/bias", "block3/convs/0/kernel", "extra/kernel:0"):
        assert part in str(error.value)
    np.testing.assert_array_equal(backbone.block1.convs[0].kernel[...], before)


def test_files_that_are_none(backbone, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.h5: no such weights file"):
        load_keras_backbone(backbone, tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.h5: not an HDF5 file"):
        load_keras_backbone(backbone, tmp_path / "text.h5")
    compact = nnx.jit(lambda: BACKBONES["compact"](DetectorModelConfig(backbone="compact"), rngs=nnx.Rngs(0)))()
    with pytest.raises(CheckpointError, match=r"set model\.backbone = 'vgg16'"):
        load_keras_backbone(compact, tmp_path / "text.h5")


def test_the_published_weights(backbone):
    folder = os.environ.get("WBCJAX_WEIGHTS")
    if not folder or not (Path(folder) / FILE).is_file():
        pytest.skip(f"WBCJAX_WEIGHTS names no folder with {FILE}")
    loaded = load_keras_backbone(nnx.clone(backbone), Path(folder) / FILE)
    assert sum(x.size for x in jax.tree.leaves(nnx.state(loaded, nnx.Param))) == 14_714_688
    # An edge between dark and light: an image it knows gives values of hundreds, no explosion and no silence.
    images = np.zeros((1, 64, 64, 3), np.float32)
    images[:, :, 32:] = 1
    maps = jax.jit(loaded.features)(preprocess(jnp.asarray(images), "caffe"))
    for name in ("c1", "c2", "c3"):
        assert 1 < float(np.asarray(maps[name]).std()) < 1000
