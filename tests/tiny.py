"""The smallest models that have every part."""

from wbcjax import config as cfg


def detector_config() -> cfg.DetectorModelConfig:
    """Of a Mask R-CNN."""
    return cfg.DetectorModelConfig(
        backbone="compact", canvas=(64, 96), levels=(4,), channels=8, norm="batch", canonical_size=32.0,
        rpn=cfg.RPNConfig(anchor_scales=(1.5,), aspect_ratios=(1.0,), pre_nms=16, post_nms=8, sample=16),
        box=cfg.BoxHeadConfig(pool=3, hidden=8, sample=8, max_detections=4),
        mask=cfg.MaskHeadConfig(pool=4, channels=4, convs=0),
    )
