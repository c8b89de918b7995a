"""Write the resolved configuration of every experiment as text; run it after a change that is meant."""

import json
from pathlib import Path

from wbcjax import config as cfg
from wbcjax.pipeline.detector_presets import detector_config
from wbcjax.pipeline.presets import PRESETS

FOLDER = Path(__file__).parent
DETECTORS = (("compact", "cpu"), *((name, preset) for name in ("vgg16", "resnet50") for preset in ("cpu", "paper")))
"""Model and preset of each detector; a pretrained backbone stands for the random one too."""


def resolved() -> dict[str, str]:
    """File name -> text of every configuration that the presets run, but for the folders of one machine."""
    texts = {}
    for name, preset in PRESETS.items():
        for config in preset.configs(cfg.DataConfig(root=None)):
            values = {"run": cfg.to_dict(config), "noise": cfg.to_dict(preset.noise)}
            text = json.dumps(values, indent=1, sort_keys=True) + "\n"
            texts[f"{name}_{config.model.name}_{config.input}.json"] = text
    for name, preset in DETECTORS:
        values = cfg.to_dict(detector_config(name, preset, Path(f"{name}.weights")))
        del values["data"]
        texts[f"detector_{preset}_{name}.json"] = json.dumps(values, indent=1, sort_keys=True) + "\n"
    return texts


if __name__ == "__main__":
    for file_name, text in resolved().items():
        (FOLDER / file_name).write_text(text)
