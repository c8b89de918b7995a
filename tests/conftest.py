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
def synthetic_root(tmp_path_factory) -> Path:
    """A tiny data root in the layout of the real archives; not to be changed."""
    from wbcjax.data.synthetic import write_dataset

    root = tmp_path_factory.mktemp("synthetic") / "root"
    return write_dataset(root, train_originals=3, test_originals=1, copies_train=6, copies_test=3, two_cells=1,
                         size=(240, 320))
