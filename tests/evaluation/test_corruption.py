"""The sweep over corruptions against single calls, whatever the batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.data.corruptions import CORRUPTIONS, LEVELS
from wbcjax.evaluation.corruption import corruption_sweep

KEY = jax.random.key(3)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3)).astype(np.uint8)


def predict(images):
    """Sixteen classes by brightness."""
    return -jnp.abs(images.mean(axis=(1, 2, 3))[:, None] - jnp.linspace(0.2, 0.8, 16))


@pytest.mark.parametrize("batch_size", [2, 64])
def test_sweep_equals_single_calls(batch_size):
    swept = corruption_sweep(predict, IMAGES, key=KEY, batch_size=batch_size)
    assert swept.shape == (len(CORRUPTIONS), len(LEVELS), 5)
    for kind, level, image in ((0, 0, 0), (2, 4, 1), (5, 4, 4), (10, 2, 3)):
        function = list(CORRUPTIONS.values())[kind]
        key = jax.random.fold_in(jax.random.fold_in(KEY, kind), image)
        one = function(key, jnp.asarray(IMAGES[image], jnp.float32) / 255, jnp.float32(LEVELS[level]))
        one = jnp.round(jnp.clip(one, 0, 1) * 255) / 255
        assert swept[kind, level, image] == predict(one[None]).argmax()


def test_darker_images_are_darker():
    dark = corruption_sweep(predict, IMAGES, key=KEY)[list(CORRUPTIONS).index("brightness_down")]
    assert (np.diff(dark, axis=0) <= 0).all() and (dark[-1] < dark[0]).all()
