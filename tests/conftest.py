"""Fixtures shared by all tests, and a persistent compilation cache so that a second run is fast."""

import os
from pathlib import Path

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "wbcjax" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import pytest
from hypothesis import HealthCheck, settings

# A busy machine makes examples slow, and a gate must judge the change, not the draw of the day:
# --hypothesis-profile=default searches anew.
settings.register_profile("wbcjax", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wbcjax")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real archives; skips where they are absent."""
    root = os.environ.get("WBCJAX_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("the real data sets are absent: set WBCJAX_DATA to the folder with BCCD_Dataset and blood-cells")
    return Path(root)


@pytest.fixture(scope="session")
def vgg16_weights() -> Path:
    """Keras' VGG16 without its head; skips where it is absent."""
    folder = os.environ.get("WBCJAX_WEIGHTS")
    path = Path(folder or "") / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    if not folder or not path.is_file():
        pytest.skip(f"the weights are absent: set WBCJAX_WEIGHTS to the folder with {path.name}")
    return path


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory) -> Path:
    """A tiny data root in the layout of the real archives; not to be changed."""
    from wbcjax.data.synthetic import write_dataset

    root = tmp_path_factory.mktemp("synthetic") / "root"
    return write_dataset(root, train_originals=3, test_originals=1, copies_train=6, copies_test=3, two_cells=1,
                         size=(240, 320))


@pytest.fixture(scope="session")
def tiny_detector():
    """The configuration of the smallest Mask R-CNN that has every part."""
    from tests.tiny import detector_config

    return detector_config()


@pytest.fixture(scope="session")
def detector_weights(tiny_detector, tmp_path_factory) -> Path:
    """Weights of a tiny Mask R-CNN as they were drawn: it finds something somewhere."""
    from wbcjax import config as cfg
    from wbcjax.models.mask_rcnn import build_detector
    from wbcjax.pipeline.workdir import portable
    from wbcjax.training import split
    from wbcjax.training.weights import save_weights

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    _, params, stats = split(build_detector(tiny_detector))
    save_weights(path, params, stats, portable(cfg.DetectorConfig(model=tiny_detector)))
    return path
