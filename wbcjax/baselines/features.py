"""Hand-made features of a crop: shape of nucleus and cell, colour of nucleus and cytoplasm, texture.

They are the usual ones of papers before convolutional networks: region properties, Hu's moments, moments of the colour
channels, Haralick's features of the grey-level co-occurrence matrix, and local binary patterns. All are invariant, or
nearly so, to turns and mirroring; lengths and areas are relative to the crop, so its resolution hardly matters.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from wbcjax.baselines import require
from wbcjax.baselines.segmentation import Cell, segment
from wbcjax.config import ColorRoiConfig
from wbcjax.typing import Bool, Float, Image, Images

Named = dict[str, float]

GREYS = 32
"""Levels of the co-occurrence matrix."""
DISTANCES = (1, 3)
"""Of its pairs of pixels."""
PATTERNS = ((8, 1), (8, 2))
"""Points and radius of the local binary patterns."""


def features(image: Image, roi: ColorRoiConfig) -> Named:
    """All features of one crop by name.

    Args:
      image: RGB, 0..255.
      roi: colour ranges, as of ``segment``.

    Raises:
      ConfigError: without scikit-image.
    """
    cell = segment(image, roi)
    return {
        **shape_features(cell.nucleus, "nucleus"),
        **shape_features(cell.cell, "cell"),
        "nucleus_share": float(cell.nucleus.sum() / cell.cell.sum()),
        "lobes": float(lobes(cell.nucleus)),
        **colour_features(image, cell),
        **texture_features(image, cell),
    }


def feature_matrix(
    images: Images, roi: ColorRoiConfig, *, workers: int | None = None
) -> tuple[tuple[str, ...], Float[np.ndarray, "n f"]]:
    """Names, and the features of every crop, in threads."""
    if not len(images):
        raise ValueError("feature_matrix needs at least one image")
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = list(pool.map(lambda image: features(np.asarray(image), roi), images))
    return tuple(found[0]), np.array([list(values.values()) for values in found], np.float64)


def shape_features(mask: Bool[np.ndarray, "h w"], name: str) -> Named:
    """Region properties and the logarithms of Hu's seven moments, of a mask with at least one pixel.

    Area is a share of the crop, lengths are of its mean side. Compactness is 4π area / perimeter², 1 for a disc and
    near 0 for lace.
    """
    region = require("skimage.measure").regionprops(mask.astype(np.uint8))[0]
    side = np.sqrt(mask.size)
    perimeter = max(float(region.perimeter), 1.0)
    moments = cv2.HuMoments(cv2.moments(mask.astype(np.uint8), binaryImage=True)).ravel()
    logs = np.sign(moments) * np.log10(np.abs(moments) + 1e-12)
    logs[6] = np.abs(logs[6])  # its sign turns with mirroring
    return {
        f"{name}_area": float(region.area / mask.size),
        f"{name}_perimeter": perimeter / side,
        f"{name}_eccentricity": float(region.eccentricity),
        f"{name}_solidity": float(region.solidity),
        f"{name}_compactness": 4 * np.pi * float(region.area) / perimeter**2,
        f"{name}_long_axis": float(region.axis_major_length) / side,
        f"{name}_short_axis": float(region.axis_minor_length) / side,
        **{f"{name}_hu{i}": float(value) for i, value in enumerate(logs, 1)},
    }


def lobes(nucleus: Bool[np.ndarray, "h w"]) -> int:
    """Parts into which a nucleus falls when what is thinner than half of its thickest place is taken away; at least
    one."""
    depth = cv2.distanceTransform(np.pad(nucleus.astype(np.uint8), 1), cv2.DIST_L2, 5)
    count, _ = cv2.connectedComponents((depth > depth.max() / 2).astype(np.uint8))
    return max(count - 1, 1)


def colour_features(image: Image, cell: Cell) -> Named:
    """Mean, deviation and skewness of each channel of RGB and HSV in the nucleus and in the cytoplasm, or in the cell
    where there is no cytoplasm."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    channels = np.concatenate([image, hsv], axis=2).astype(np.float64) / 255
    found = {}
    for name, mask in (("nucleus", cell.nucleus), ("cytoplasm", cell.cytoplasm)):
        values = channels[mask if mask.any() else cell.cell]
        mean, std = values.mean(axis=0), values.std(axis=0)
        skew = ((values - mean) ** 3).mean(axis=0) / np.maximum(std, 1e-3) ** 3
        for kind, numbers in (("mean", mean), ("std", std), ("skew", skew)):
            found |= {f"{name}_{channel}_{kind}": float(v) for channel, v in zip("RGBHSV", numbers, strict=True)}
    return found


def texture_features(image: Image, cell: Cell) -> Named:
    """Haralick's features of the cell's co-occurrence matrices, mean over four directions, and the frequencies of its
    uniform local binary patterns."""
    texture = require("skimage.feature")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # Level 0 is what lies outside the cell; its pairs are left out.
    levels = np.where(cell.cell, 1 + (grey.astype(int) * GREYS) // 256, 0).astype(np.uint8)
    angles = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
    pairs = texture.graycomatrix(levels, DISTANCES, angles, levels=GREYS + 1, symmetric=True)[1:, 1:].astype(np.float64)
    pairs /= np.maximum(pairs.sum(axis=(0, 1)), 1)
    found = {}
    for kind in ("contrast", "dissimilarity", "homogeneity", "energy", "correlation"):
        values = texture.graycoprops(pairs, kind).mean(axis=1)
        found |= {f"{kind}_{d}": float(v) for d, v in zip(DISTANCES, values, strict=True)}
    entropy = -(pairs * np.log2(np.maximum(pairs, 1e-12))).sum(axis=(0, 1)).mean(axis=1)
    found |= {f"entropy_{d}": float(v) for d, v in zip(DISTANCES, entropy, strict=True)}
    for points, radius in PATTERNS:
        codes = texture.local_binary_pattern(grey, points, radius, method="uniform")[cell.cell].astype(int)
        shares = np.bincount(codes, minlength=points + 2) / len(codes)
        found |= {f"lbp{radius}_{code}": float(share) for code, share in enumerate(shares)}
    return found


def by_group(names: Sequence[str]) -> dict[str, int]:
    """How many of the features describe shape, colour and texture."""
    texture = ("lbp", "contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
    kinds = ["texture" if name.startswith(texture) else
             "colour" if name.endswith(("_mean", "_std", "_skew")) else "shape" for name in names]
    return {kind: kinds.count(kind) for kind in ("shape", "colour", "texture")}
