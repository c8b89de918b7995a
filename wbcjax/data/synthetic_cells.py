"""Red cells, platelets and the four white cells of a synthetic smear, each on a small grid of its own.

A white cell is an outline, a nucleus (``synthetic_nuclei``), and a table of how the stain colours each class
(``LOOKS``, fitted by eye and by the median colours in BCCD's nucleus and cytoplasm masks). Lengths inside a
cell are in units of its radius; positions on the canvas are pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from wbcjax.data.synthetic_nuclei import NUCLEI
from wbcjax.typing import Bool, Float

_ANGLES = 512


@dataclass(frozen=True)
class RedCell:
    """A red cell's patch: where it lies, what it covers, how much light it takes.

    ``top`` and ``left`` are the canvas pixel of the patch's first pixel and may be negative. ``thickness`` is
    relative (1: the rim of a typical cell) and slightly negative in the bright diffraction ring around it.
    """

    top: int
    left: int
    footprint: Bool[np.ndarray, "p p"]
    thickness: Float[np.ndarray, "p p"]


@dataclass(frozen=True)
class StainedCell:
    """The patch of a platelet or a white cell: as ``RedCell``, but opaque.

    It has a colour (RGB, 0..255), a soft coverage ``alpha`` in [0, 1] and a nucleus (empty for platelets).
    """

    top: int
    left: int
    footprint: Bool[np.ndarray, "p p"]
    alpha: Float[np.ndarray, "p p"]
    color: Float[np.ndarray, "p p 3"]
    nucleus: Bool[np.ndarray, "p p"]


@dataclass(frozen=True)
class Look:
    """How one class looks. Radii in pixels at 640×480, for a compact and a well spread cell; colours RGB."""

    radius: tuple[int, int]
    wobble: float
    """How far the outline departs from a circle."""
    bend: float
    """How far the nucleus is bent out of its ideal shape."""
    cytoplasm: tuple[int, int, int]
    cytoplasm_compact: tuple[int, int, int]
    granule: tuple[int, int, int]
    granule_size: float
    """Standard deviation of a granule, and below the distance between two: pixels at 640×480."""
    granule_spacing: float
    granule_strength: float
    chromatin_contrast: float
    chromatin_density: float
    vacuoles: int
    """Mean number in a well spread cell."""


# fmt: off
LOOKS = (
    Look(
        radius=(66, 114), wobble=0.03, bend=0.045,
        cytoplasm=(206, 186, 198), cytoplasm_compact=(188, 162, 188),
        granule=(196, 122, 152), granule_size=2.5, granule_spacing=8.0, granule_strength=0.92,
        chromatin_contrast=0.8, chromatin_density=0.0, vacuoles=2,
    ),
    Look(
        radius=(58, 86), wobble=0.022, bend=0.02,
        cytoplasm=(166, 174, 205), cytoplasm_compact=(150, 158, 197),
        granule=(148, 150, 195), granule_size=1.6, granule_spacing=9.0, granule_strength=0.3,
        chromatin_contrast=0.35, chromatin_density=0.22, vacuoles=0,
    ),
    Look(
        radius=(88, 128), wobble=0.06, bend=0.05,
        cytoplasm=(182, 186, 203), cytoplasm_compact=(166, 172, 200),
        granule=(160, 154, 196), granule_size=1.2, granule_spacing=5.0, granule_strength=0.5,
        chromatin_contrast=0.9, chromatin_density=-0.06, vacuoles=18,
    ),
    Look(
        radius=(66, 110), wobble=0.022, bend=0.04,
        cytoplasm=(206, 186, 203), cytoplasm_compact=(190, 164, 197),
        granule=(182, 146, 188), granule_size=1.4, granule_spacing=4.6, granule_strength=0.75,
        chromatin_contrast=0.8, chromatin_density=0.0, vacuoles=1,
    ),
)
# fmt: on
"""One ``Look`` a class, in the order of ``CLASS_NAMES``."""


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], period: float) -> Float[np.ndarray, "h w"]:
    """Gaussian noise of about unit spread that varies over ``period`` pixels."""
    h, w = size
    coarse = rng.standard_normal((int(h / period) + 2, int(w / period) + 2), dtype=np.float32)
    return 1.2 * cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)


def red_cells(
    rng: np.random.Generator,
    centers: Float[np.ndarray, "k 2"],
    radii: Float[np.ndarray, " k"],
    spread: float,
    unit: float,
) -> list[RedCell]:
    """All red cells of a smear at once.

    Args:
      centers: (x, y) in pixels.
      radii: pixels.
      spread: 0 for the thick part of a film (dark, stacked, without pallor), 1 for the thin (pale centres).
      unit: pixels of this canvas per pixel of a 640×480 image.
    """
    k = len(centers)
    if k == 0:
        return []
    # Everything about a red cell is smooth: half the resolution is enough, at a quarter of the cost.
    half = int(np.ceil(1.35 * radii.max())) + 1
    corner = np.floor(centers - half).astype(int)
    grid = 2 * np.arange(half, dtype=np.float32) + 1
    x = (grid[None, None, :] + (corner - centers)[:, 0, None, None]).astype(np.float32)
    y = (grid[None, :, None] + (corner - centers)[:, 1, None, None]).astype(np.float32)
    stretch = np.exp(np.abs(rng.normal(0, 0.16 - 0.06 * spread, k)))
    turn = rng.uniform(0, np.pi, k)
    cos, sin = (
        np.float32(np.cos(turn) / radii)[:, None, None],
        np.float32(np.sin(turn) / radii)[:, None, None],
    )
    stretch = np.float32(stretch)[:, None, None]
    u, v = (cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch
    rho = _rho(u, v, _outlines(rng, k, 0.03, 4))

    column = (k, 1, 1)
    depth = rng.beta(1 + 5 * spread, 1.6, column).astype(np.float32)
    width = rng.uniform(0.36, 0.66, column).astype(np.float32)
    base = rng.normal(1.25 - 0.25 * spread, 0.08, column).astype(np.float32)
    off = rng.normal(0, 0.08, (2, *column)).astype(np.float32)
    pallor = np.exp(-((((u - off[0]) ** 2 + (v - off[1]) ** 2) / width**2) ** 2.5))
    rim = np.exp(-(((rho - 0.93) / 0.07) ** 2))
    edge = np.float32(radii)[:, None, None] * (1 - rho) / np.float32(2.5 * unit)
    cover = np.clip(edge + 0.5, 0, 1)
    thickness = cover * base * (1 - depth * pallor + 0.16 * rim) - 0.07 * np.exp(
        -(((rho - 1.07) / 0.06) ** 2)
    )
    full = (2 * half, 2 * half)
    return [
        RedCell(top, left, cv2.resize(r, full) < 1, cv2.resize(t, full))
        for (top, left), r, t in zip(corner[:, ::-1].tolist(), rho, thickness, strict=True)
    ]


def platelet(
    rng: np.random.Generator, center: Float[np.ndarray, "2"], radius: float, unit: float
) -> StainedCell:
    """A platelet: a small ragged purple body, darker in the middle. Arguments as for ``white_cell``."""
    p, top, left, x, y = _patch(center, radius, 1.5)
    rho = _rho(x, y * np.float32(rng.uniform(1, 1.4)), _outlines(rng, 1, 0.09, 5))
    grain = smooth_noise(rng, (p, p), max(6 * unit, 1.0))
    dark = np.clip(0.75 - 0.6 * rho + 0.12 * grain, 0, 1)[..., None]
    pale, deep = rng.normal((168, 164, 208), 4), rng.normal((112, 94, 184), 5)
    color = (pale * (1 - dark) + deep * dark).astype(np.float32)
    alpha = 0.88 * np.clip((1 - rho) * np.float32(radius / (3 * unit)) + 0.5, 0, 1)
    return StainedCell(top, left, rho < 1, alpha, color, np.zeros((p, p), bool))


def white_cell(
    rng: np.random.Generator,
    center: Float[np.ndarray, "2"],
    radius: float,
    kind: int,
    spread: float,
    unit: float,
) -> StainedCell:
    """A white cell of class ``kind`` (an index into ``CLASS_NAMES``).

    Args:
      center: (x, y) in pixels.
      radius: pixels.
      spread: 0 for a compact, darkly stained cell, 1 for a flat, pale one.
      unit: pixels of this canvas per pixel of a 640×480 image.
    """
    look = LOOKS[kind]
    p, top, left, x, y = _patch(center, radius, 1.35)
    turn = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    stretch = np.float32(np.exp(rng.normal(0, 0.05)))
    x, y = (cos * x + sin * y) * stretch, (cos * y - sin * x) / stretch
    rho = _rho(x, y, _outlines(rng, 1, look.wobble, 7))

    # The distance is smooth: half the resolution is enough, at a quarter of the cost.
    half = (p + 1) // 2
    small = [cv2.resize(a, (half, half), interpolation=cv2.INTER_AREA) for a in (x, y)]
    bend = [look.bend * smooth_noise(rng, (half, half), max(half / 7, 2.0)) for _ in range(2)]
    distance = NUCLEI[kind](rng, small[0] + bend[0], small[1] + bend[1])
    distance = cv2.resize(distance, (p, p), interpolation=cv2.INTER_CUBIC)
    distance = np.maximum(distance, (rho - 0.96) * 0.8)

    pixels = np.float32(radius / (2.5 * unit))
    inside = np.clip(0.5 - distance * pixels, 0, 1)[..., None]
    color = _cytoplasm(rng, look, rho, spread, unit)
    color += inside * (_chromatin(rng, look, distance, spread, unit) - color)
    alpha = np.clip((1 - rho) * pixels * np.float32(0.6) + 0.5, 0, 1) * np.float32(0.95)
    footprint = rho < 1
    return StainedCell(top, left, footprint, alpha, color, (distance < 0) & footprint)


def _patch(center, radius, reach):
    """Side, top, left of a patch that holds ``reach`` radii around ``center``, and its x, y in radii."""
    p = int(np.ceil(2 * reach * radius)) + 2
    left, top = np.floor(np.asarray(center) - p / 2).astype(int)
    grid = np.arange(p) + 0.5
    x, y = np.meshgrid((grid + left - center[0]) / radius, (grid + top - center[1]) / radius)
    return p, int(top), int(left), x.astype(np.float32), y.astype(np.float32)


def _outlines(rng, k, wobble, harmonics):
    """Radius of ``k`` closed outlines over ``_ANGLES`` directions, about 1, from a few random harmonics."""
    order = np.arange(2, 2 + harmonics)[:, None]
    phase = order * np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    waves = np.concatenate([np.cos(phase), np.sin(phase)])
    weights = rng.normal(0, wobble, (k, 2 * harmonics)) * 2 / np.tile(order[:, 0], 2)
    return np.clip(1 + weights @ waves, 0.6, 1.3).astype(np.float32)


def _rho(x, y, outlines):
    """Distance from the centre as a fraction of the outline in that direction; below 1 is inside."""
    shape = x.shape
    length, angle = cv2.cartToPolar(x.reshape(-1, shape[-1]), y.reshape(-1, shape[-1]))
    index = (angle * np.float32(_ANGLES / (2 * np.pi))).astype(np.int32) & (_ANGLES - 1)
    index = index.reshape(len(outlines), -1) + _ANGLES * np.arange(len(outlines), dtype=np.int32)[:, None]
    return length.reshape(shape) / outlines.ravel()[index].reshape(shape)


def _cytoplasm(rng, look, rho, spread, unit):
    size = rho.shape
    flat, compact = np.array(look.cytoplasm), np.array(look.cytoplasm_compact)
    base = compact + spread * (flat - compact) + rng.normal(0, 4, 3)
    color = np.empty((*size, 3), np.float32)
    color[:] = base
    # Granules: blurred points on a jittered grid; coarse they are an eosinophil's, fine a neutrophil's.
    spacing = max(look.granule_spacing * unit, 1.5)
    n = int(size[0] / spacing) + 1
    points = ((np.indices((n, n)).reshape(2, -1) + rng.uniform(0, 1, (2, n * n))) * spacing).astype(int)
    points = points[:, (points < size[0]).all(0)]
    dots = np.zeros(size, np.float32)
    sigma = max(look.granule_size * unit, 0.4)
    dots[points[0], points[1]] = rng.uniform(0.5, 1.2, points.shape[1]) * max(2 * np.pi * sigma**2, 1)
    dots = np.clip(cv2.GaussianBlur(dots, (0, 0), sigma), 0, 1)
    patches = np.clip(0.85 + 0.25 * smooth_noise(rng, size, max(size[0] / 5, 2.0)), 0.3, 1.2)
    color += (np.float32(look.granule_strength) * dots * patches)[..., None] * (
        np.float32(look.granule) - color
    )
    holes = np.zeros(size, np.float32)
    for _ in range(rng.poisson(look.vacuoles * spread)):
        spot = tuple(int(v) for v in rng.uniform(0.15, 0.85, 2) * size[0])
        cv2.circle(
            holes,
            spot,
            max(int(rng.uniform(2.5, 6) * unit), 1),
            float(rng.uniform(0.4, 0.9)),
            -1,
            cv2.LINE_AA,
        )
    color += holes[..., None] * (np.float32((212, 210, 214)) - color)
    # The membrane is seen edge on: a little denser.
    color -= 9 * np.exp(-(((rho - 0.96) / 0.05) ** 2))[..., None]
    return color


def _chromatin(rng, look, distance, spread, unit):
    size = distance.shape
    clumps = smooth_noise(rng, size, max(13 * unit, 2.0)) + 0.6 * smooth_noise(rng, size, max(5 * unit, 1.5))
    depth = np.clip(-distance / 0.16, 0, 1)
    dark = (
        0.62
        + look.chromatin_density
        - 0.28 * spread
        + 0.16 * look.chromatin_contrast * clumps
        + 0.18 * (0.5 - depth)
    )
    dark = np.clip(dark, 0, 1)[..., None]
    pale = np.float32(rng.normal((166, 122, 222), 4))
    deep = np.float32(rng.normal((88, 66, 182), 4))
    return pale + dark * (deep - pale)
