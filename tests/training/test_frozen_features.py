"""Features of frozen stages, cached: the same losses as from the images, for every copy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data.detection_augment import augment_detection
from wbcjax.data.detection_stream import DetectionStream, fetch_instances
from wbcjax.data.instances import smear_arrays
from wbcjax.data.synthetic import draw
from wbcjax.errors import ConfigError
from wbcjax.models.mask_rcnn import build_detector
from wbcjax.training.frozen_features import FeatureStream, fetch_features

CONFIG = cfg.DetectorConfig(
    model=cfg.DetectorModelConfig(
        backbone="compact", canvas=(64, 96), levels=(3, 4, 5), channels=8, frozen_stages=2,
        rpn=cfg.RPNConfig(anchor_scales=(4.0,), pre_nms=20, post_nms=10, sample=16),
        box=cfg.BoxHeadConfig(hidden=16, sample=8, max_detections=4), mask=cfg.MaskHeadConfig(channels=8, convs=1)),
    train=cfg.LoopConfig(batch_size=2),
    cached_copies=2,
)


@pytest.fixture(scope="module")
def arrays():
    return smear_arrays(draw(3, (64, 96), seed=1), ("wbc",), (64, 96))


@pytest.fixture(scope="module")
def model():
    return build_detector(CONFIG.model)


def test_losses_are_those_of_the_images(model, arrays):
    stream = FeatureStream(model, arrays, CONFIG, chunk=3)
    assert stream.resident["features"].shape == (6, 8, 12, 48) and stream.steps_per_epoch == 3
    batch = {"index": jnp.array([4, 5])}
    features, sizes, truth = fetch_features(jax.device_put(stream.resident), batch)
    cached = model.losses_of(model.pyramid_of_frozen(features), sizes, truth, jax.random.key(0))

    # The second chunk, of all three images, had its own key.
    resident = jax.device_put(DetectionStream(arrays, 1, 0).resident)
    images, sizes, truth = fetch_instances(resident, {"index": jnp.arange(3)})
    moved = augment_detection(jax.random.fold_in(jax.random.key(0), 3), images, sizes, truth, CONFIG.augment)
    images, sizes, truth = jax.tree.map(lambda x: x[1:], tuple(moved))
    direct = model.losses(images, sizes, truth, jax.random.key(0))
    for name, value in direct.items():
        assert float(cached[name]) == pytest.approx(float(value), rel=0.05), name  # bfloat16


def test_copies_differ_and_names_repeat(model, arrays):
    stream = FeatureStream(model, arrays, CONFIG, chunk=4)  # chunks that cut a pass over the images
    features = np.asarray(stream.resident["features"], np.float32)
    assert np.abs(features[:3] - features[3:]).max() > 0.1
    assert stream.names({"index": np.array([0, 3, 5])}) == ["smear_0", "smear_0", "smear_2"]


def test_maps_of_earlier_stages_are_refused(arrays):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, frozen_stages=3))
    with pytest.raises(ConfigError, match=r"keeps c4 of the backbone alone, but model.levels = \(3, 4, 5\) need c3"):
        FeatureStream(build_detector(config.model), arrays, config)


def test_without_frozen_stages_there_is_nothing_to_keep():
    with pytest.raises(ConfigError, match="cached_copies"):
        cfg.DetectorConfig(cached_copies=2)
