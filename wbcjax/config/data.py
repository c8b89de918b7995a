"""Where images come from, and how the colour ROI and the crops are made."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from wbcjax.config.base import require


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from."""

    root: Path | None = field(
        default_factory=lambda: Path(os.environ["WBCJAX_DATA"]) if os.environ.get("WBCJAX_DATA") else None
    )
    """Folder that holds BCCD_Dataset and blood-cells; the environment variable WBCJAX_DATA is its default."""
    cache_dir: Path = Path("~/.cache/wbcjax")
    """Decoded images and downloads are kept here."""
    strict: bool = True
    """Stop at the first damaged or odd file (grey, wrong extension). False converts what can be converted, and drops
    boxes without area with a warning."""


@dataclass(frozen=True)
class ColorRoiConfig:
    """The colour-based ROI of the paper's section 3.1.1, each threshold by its name.

    The defaults are the faithful method; ``wbcjax.roi.EXPANDED`` adds closing, opening, the cytoplasm and enlargement.
    """

    blur_kernel: int = 3
    blur_sigma: float = 0.0
    """0 lets OpenCV derive it from the kernel size (0.8 for 3×3); the paper gives none."""
    hsv_low: tuple[int, int, int] = (80, 60, 140)
    """OpenCV HSV (H 0–179). The paper does not name the colour space of its range; read as RGB it gives a mean IoU of
    0.12, as HSV 0.62."""
    hsv_high: tuple[int, int, int] = (255, 255, 255)
    close_kernel: int = 0
    """Diameter of the elliptic closing, 0 for none. At a width of 640 pixels; scaled with the image."""
    open_kernel: int = 0
    """Diameter of the elliptic opening, 0 for none. At a width of 640 pixels; scaled with the image."""
    cytoplasm_reach: float = 0.0
    """Pixels around the nucleus' box in which pixels of the cytoplasm's colour join the cell if they touch the nucleus;
    0 for the nucleus alone, as in the paper. At a width of 640 pixels; scaled with the image."""
    cytoplasm_low: tuple[int, int, int] = (110, 15, 120)
    cytoplasm_high: tuple[int, int, int] = (150, 255, 255)
    """OpenCV HSV: bluer than red cells (hue from about 150), less pale than plasma (saturation about 13)."""
    cytoplasm_open: int = 0
    """Diameter of the elliptic opening that cuts thin bridges between cytoplasm and neighbours, 0 for none. At a width
    of 640 pixels; scaled with the image."""
    scale: float = 1.0
    """Factor on the box's width and height about its centre."""
    pad: float = 0.0
    """Pixels added on each side after scaling. At a width of 640 pixels; scaled with the image."""
    min_area: float = 0.0
    """Contours enclosing fewer pixels are no cell. At a width of 640 pixels; scaled with the image's area."""
    work_width: int | None = None
    """Wider images are shrunk to this width before the blur: faster. None works at the image's own size."""

    def __post_init__(self):
        require(self.blur_kernel >= 1 and self.blur_kernel % 2 == 1, "roi.blur_kernel", self.blur_kernel, "odd, >= 1")
        require(self.blur_sigma >= 0, "roi.blur_sigma", self.blur_sigma, ">= 0")
        require(self.close_kernel >= 0, "roi.close_kernel", self.close_kernel, ">= 0")
        require(self.open_kernel >= 0, "roi.open_kernel", self.open_kernel, ">= 0")
        require(self.scale > 0, "roi.scale", self.scale, "> 0")
        for name in ("cytoplasm_reach", "cytoplasm_open", "pad"):
            require(getattr(self, name) >= 0, f"roi.{name}", getattr(self, name), ">= 0")
        require(self.min_area >= 0, "roi.min_area", self.min_area, ">= 0")
        require(self.work_width is None or self.work_width >= 16, "roi.work_width", self.work_width, ">= 16 or None")
        for name in ("hsv_low", "hsv_high", "cytoplasm_low", "cytoplasm_high"):
            value = getattr(self, name)
            in_range = len(value) == 3 and all(0 <= v <= 255 for v in value)
            require(in_range, f"roi.{name}", value, "three values in 0..255")
        for name, high in (("hsv_low", self.hsv_high), ("cytoplasm_low", self.cytoplasm_high)):
            value = getattr(self, name)
            ordered = all(low <= top for low, top in zip(value, high, strict=True))
            require(ordered, f"roi.{name}", value, f"at most {high}")


@dataclass(frozen=True)
class CropConfig:
    """How a box becomes a classifier input of fixed size."""

    margin: float = 0.1
    """Fraction of the box's longer side added on every side before cropping; the paper gives none."""
    square: bool = True
    """Extend the shorter side so that the cell keeps its proportions."""

    def __post_init__(self):
        require(self.margin >= 0, "crop.margin", self.margin, ">= 0")
