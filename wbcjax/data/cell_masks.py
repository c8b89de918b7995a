"""The published nucleus and cytoplasm masks of the BCCD images (folder BCCD_masks of the data root)."""

from pathlib import Path

import cv2
import numpy as np

from wbcjax.errors import DataError
from wbcjax.typing import UInt8

BACKGROUND, CYTOPLASM, NUCLEUS = 0, 1, 2


def cell_mask_path(root: Path, name: str) -> Path | None:
    """The mask file of the image ``name`` (BloodImage_00110) below a data root; None when there is none."""
    path = root / "BCCD_masks" / f"{name.replace('BloodImage_', 'BloodImage_Mask_')}.png"
    return path if path.is_file() else None


def read_cell_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """Read a mask file as ``BACKGROUND``, ``CYTOPLASM`` and ``NUCLEUS``.

    The files hold 0, 155 and 255. 37 of them have three equal channels and soft edges: each pixel becomes the
    nearest of the three values.

    Raises:
      DataError: the file cannot be decoded.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise DataError(f"{path}: cannot be decoded as a mask; download it again or delete it")
    return np.digitize(pixels, (78, 205)).astype(np.uint8)  # halfway between 0, 155 and 255
