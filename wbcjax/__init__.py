"""wbcjax: find white blood cells in smear images and tell their class, in JAX/Flax.

The names below are the short way in, for notebooks; each is loaded when it is first used.

    import wbcjax
    run = wbcjax.load("runs/custom2-roi")
    run.predict(["smear.jpg"])[0].class_name
"""

import importlib
from typing import Any

_PUBLIC = {
    "Run": "wbcjax.pipeline.predictor",
    "load": "wbcjax.pipeline.predictor",
    "predict": "wbcjax.pipeline.predictor",
    "calibrate": "wbcjax.pipeline.confidence",
    "train": "wbcjax.pipeline.runs:train_on",
    "from_pretrained": "wbcjax.pretrained.store",
    "Detector": "wbcjax.pipeline.detector",
    "train_detector": "wbcjax.pipeline.detector_runs",
    "class_folders": "wbcjax.data",
    "kaggle": "wbcjax.data",
    "voc": "wbcjax.data",
    "coco": "wbcjax.data",
    "detection_folder": "wbcjax.data",
    "color_roi": "wbcjax.roi",
    "ClassifierConfig": "wbcjax.config",
    "DetectorConfig": "wbcjax.config",
    "ModelConfig": "wbcjax.config",
    "TrainConfig": "wbcjax.config",
    "recipe": "wbcjax.pipeline.presets",
    "detector_config": "wbcjax.pipeline.detector_presets",
    "CLASS_NAMES": "wbcjax.typing",
}
"""Public name -> its module, with the name there where it is another."""

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wbcjax' has no attribute {name!r}; it offers {', '.join(sorted(_PUBLIC))}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
