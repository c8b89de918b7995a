"""``wbcjax convert``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Source = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]


@dataclass
class Convert:
    """Read a pretrained classifier of Keras, torchvision or timm, and write it as a file of this package.

    The file holds the weights, what to rebuild the model with, how images are prepared, and where it all comes from;
    reading it needs no network and no other library.
    """

    source: Source
    """A published name such as torchvision/resnet50, which is downloaded once, or a .pth, .safetensors, .h5 or .keras
    file."""
    out: Path
    """File to write, .safetensors; must not exist."""
    name: str | None = None
    """The network, such as vgg16, for a file that is not one of the published ones."""
    image_size: tuple[int, int] | None = None
    """Height and width of the input; None is as published."""
    preprocessing: Literal["unit", "imagenet", "caffe", "symmetric"] | None = None
    """How images are prepared; None is as published, for a file of one's own as its library does."""
    aux: bool = False
    """Keep InceptionV3's auxiliary head."""
    half: bool = False
    """Store the parameters in half precision: half the size, and three digits."""
    licence: str | None = None
    """Noted in the file; None is the publisher's."""
    cache_dir: Path | None = None
    """Downloads are kept here, in weights/; None is ~/.cache/wbcjax."""

    def run(self) -> int:
        from wbcjax.pretrained.store import convert

        given = {"name": self.name, "image_size": self.image_size, "preprocessing": self.preprocessing,
                 "aux": self.aux or None}
        card = convert(self.source, self.out, half=self.half, licence=self.licence, cache_dir=self.cache_dir,
                       **{name: value for name, value in given.items() if value is not None})
        height, width = card["image_size"]
        print(f"{self.out}: {card['architecture']}{'' if card['head'] else ' without head'}, {height}×{width}, "
              f"preprocessing {card['preprocessing']['name']}, {self.out.stat().st_size / 1e6:.1f} MB\n"
              f"source {card['source']}, SHA-256 {card['sha256']}, licence {card['licence']}")
        return 0
