"""One synthetic smear: where the cells lie, who covers whom, and what the microscope makes of it.

Red cells take light by their summed thickness (Beer–Lambert, so overlaps darken as in a real film); platelets
and white cells are laid over them. Covering order, from below: red cells in the order drawn, platelets, white
cells.
"""

from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np

from wbcjax.data import synthetic_cells as cells
from wbcjax.typing import Bool, Boxes, Image, Int, Size

WBC, RBC, PLATELETS = 0, 1, 2
_PAPER_WHITE = np.float32((209, 210, 205))
_MIN_VISIBLE = 0.25
"""A red cell or platelet of which less than this fraction would be seen is not drawn: so every object in the
picture is in the annotation, and no annotation is a sliver."""
_GAUSS = np.float32([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
_TABLE_STEP, _TABLE_ZERO = 1 / 64, 1.0


@dataclass(frozen=True)
class Smear:
    """One picture and all that is known about it. Objects are ordered white cells, red cells, platelets."""

    image: Image
    boxes: Boxes
    labels: Int[np.ndarray, " m"]
    owner: Int[np.ndarray, "h w"]
    """Which object is seen at a pixel: its index + 1, 0 for the background."""
    nucleus: Bool[np.ndarray, "h w"]
    wbc_class: Int[np.ndarray, " k"]

    def masks(self) -> Bool[np.ndarray, "m h w"]:
        """The visible pixels of each object."""
        return self.owner[None] == np.arange(1, len(self.labels) + 1, dtype=self.owner.dtype)[:, None, None]


def render(rng: np.random.Generator, size: Size, kinds: Int[np.ndarray, " k"]) -> Smear:
    """Draw one smear with one white cell for each class index in ``kinds``.

    The field of view is that of BCCD's 640×480 images: in a smaller image the cells are smaller, not fewer.
    """
    h, w = size
    unit = min(h / 480, w / 640)
    # The well spread part of a film is the more photographed one: skew towards 1.
    spread = rng.uniform() ** 0.48
    white, red, small = _place(rng, size, unit, spread, kinds)
    patches = [
        cells.white_cell(rng, c, r, int(k), spread, unit) for (c, r), k in zip(white, kinds, strict=True)
    ]
    patches += cells.red_cells(rng, *red, spread, unit)
    patches += [cells.platelet(rng, c, r, unit) for c, r in zip(*small, strict=True)]
    n_white, n_red = len(kinds), len(red[1])
    labels = np.repeat(np.int32([WBC, RBC, PLATELETS]), [n_white, n_red, len(small[1])])

    visible = np.bincount(_owner(patches, labels, size).ravel(), minlength=len(patches) + 1)[1:]
    whole = np.array([p.footprint.sum() for p in patches], int)
    keep = np.flatnonzero((visible >= np.maximum(1, _MIN_VISIBLE * whole)) | (labels == WBC))
    patches, labels = [patches[i] for i in keep], labels[keep]
    owner = _owner(patches, labels, size)

    thickness = np.zeros(size, np.float32)
    for patch in patches:
        if isinstance(patch, cells.RedCell):
            there, here = _overlap(patch, size)
            thickness[there] += patch.thickness[here]
    _add_dust(rng, thickness, unit)
    canvas = _stain(rng, thickness)
    nucleus = np.zeros(size, bool)
    for i in _from_below(labels):
        patch = patches[i]
        if isinstance(patch, cells.StainedCell):
            there, here = _overlap(patch, size)
            canvas[there] += patch.alpha[here][..., None] * (patch.color[here] - canvas[there])
            nucleus[there] = np.where(patch.footprint[here], patch.nucleus[here], nucleus[there])
    boxes = (
        np.stack([_hull(owner, i + 1, _overlap(p, size)[0]) for i, p in enumerate(patches)])
        if patches
        else (np.zeros((0, 4), np.float32))
    )
    return Smear(_photograph(rng, canvas, unit), boxes, labels, owner, nucleus, np.asarray(kinds, np.int32))


def _place(rng, size, unit, spread, kinds):
    """Centres and radii (pixels) of white cells, red cells and platelets."""
    h, w = size
    extent = np.array([w, h], float)
    white = []
    for kind in kinds:
        low, high = cells.LOOKS[kind].radius
        r = unit * (low + (high - low) * spread) * np.exp(rng.normal(0, 0.07))
        # The border cuts up to a fifth of a radius off, so it touches one cell in five (BCCD: 109 of 372).
        tries = rng.uniform(0, 1, (60, 2)) * (extent - 1.6 * r) + 0.8 * r
        gap = np.min([np.hypot(*(tries - c).T) - r - q for c, q in white], axis=0) if white else np.ones(60)
        white.append((tries[np.argmax(gap > 0)] if (gap > 0).any() else tries[np.argmax(gap)], r))

    area = h * w / unit**2 / (480 * 640)
    mean = rng.uniform(12, 32) * area
    tries = rng.uniform(-0.06, 1.06, (int(6 * mean) + 1, 2)) * extent
    radii = unit * rng.normal(49 + 2 * spread, 4.5, len(tries)).clip(38, 64)
    free = np.ones(len(tries), bool)
    for c, r in white:
        free &= np.hypot(*(tries - c).T) > r + radii * 0.8
    chosen: list[int] = []
    crowd = rng.uniform(0.4, 0.65) + 0.15 * spread
    for i in np.flatnonzero(free):
        if len(chosen) >= mean:
            break
        gap = np.hypot(*(tries[chosen] - tries[i]).T) / (radii[chosen] + radii[i])
        if (gap > crowd).all():
            chosen.append(i)

    n_small = rng.poisson(1.1 * area)
    spots = rng.uniform(0, 1, (n_small, 2)) * extent
    for c, r in white:
        spots = spots[np.hypot(*(spots - c).T) > r + 24 * unit]
    return white, (tries[chosen], radii[chosen]), (spots, unit * rng.normal(19, 4, len(spots)).clip(11, 30))


def _from_below(labels):
    """Indices in covering order: red cells, platelets, white cells."""
    return np.concatenate([np.flatnonzero(labels == kind) for kind in (RBC, PLATELETS, WBC)])


def _overlap(patch, size):
    """Slices of the canvas and of the patch where the two meet."""
    h, w = size
    p = len(patch.footprint)
    top, left = max(patch.top, 0), max(patch.left, 0)
    bottom, right = max(min(patch.top + p, h), top), max(min(patch.left + p, w), left)
    return (slice(top, bottom), slice(left, right)), (
        slice(top - patch.top, bottom - patch.top),
        slice(left - patch.left, right - patch.left),
    )


def _owner(patches, labels, size):
    owner = np.zeros(size, np.int16)
    for i in _from_below(labels):
        there, here = _overlap(patches[i], size)
        owner[there][patches[i].footprint[here]] = i + 1
    return owner


def _hull(owner, index, where):
    """Box around the pixels of one object, searched only in its patch."""
    seen = owner[where] == index
    ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    top, left = where[0].start, where[1].start
    return np.float32([left + xs[0], top + ys[0], left + xs[-1] + 1, top + ys[-1] + 1])


def _add_dust(rng, thickness, unit):
    """Faint little rings (dust on the optics) and bright dark-rimmed droplets (refractile spots of drying).

    The droplets are what reaches 255 in a real image, so that stretching the copies to 255 changes them little.
    """
    h, w = thickness.shape
    kinds = np.repeat([False, True], rng.poisson((5, 2.5)))
    for droplet in kinds:
        x, y = int(rng.uniform(0, w)), int(rng.uniform(0, h))
        reach = max(int(14 * unit), 1)
        rows, columns = (np.arange(max(c - reach, 0), min(c + reach + 1, n)) for c, n in ((y, h), (x, w)))
        distance = np.hypot(rows[:, None] - y, columns - x) / unit
        if droplet:
            size = rng.uniform(2.5, 4.5)
            spot = 0.6 * np.exp(-(((distance - 2.1 * size) / 1.6) ** 2)) - 1.8 * np.exp(-((distance / size) ** 2))
        else:
            spot = np.exp(-(((distance - 4) / 1.2) ** 2)) - 0.6 * np.exp(-((distance / 2) ** 2))
            spot *= rng.uniform(0.1, 0.3)
        thickness[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += spot


def _stain(rng, thickness):
    """Colour of the red cells.

    Blue is absorbed less than green in a thin layer (pink) and more in a thick one (brown), so overlaps never
    turn violet, which the colour ROI would take for a nucleus.
    """
    t = _TABLE_STEP * np.arange(256) - _TABLE_ZERO
    t = 2.1 * (1 - np.exp(-t / 2.1)) * 1.27 * np.exp(rng.normal(0, 0.06))
    density = np.stack([0.135 * t, 0.27 * t, 0.165 * t + 0.07 * t * t], 1) * rng.normal(1, 0.03, 3)
    density = np.where(t[:, None] < 0, 0.25 * t[:, None], density)
    table = (_PAPER_WHITE * np.exp(-density)).astype(np.float32)
    index = cv2.convertScaleAbs(np.maximum(thickness + np.float32(_TABLE_ZERO), 0), alpha=1 / _TABLE_STEP)
    return cv2.LUT(cv2.merge([index] * 3), table[None])


def _photograph(rng, canvas, unit):
    """Defocus, uneven light, sensor noise, eight bits."""
    sigma = unit * rng.uniform(0.8, 1.7)
    if sigma > 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), sigma)
    h, w = canvas.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 32), indexing="ij")
    slope = rng.normal(0, 0.012, (2, 1)) + rng.normal(0, 0.005, (2, 3))
    light = (
        1
        + x[..., None] * slope[0]
        + y[..., None] * slope[1]
        - rng.uniform(0, 0.03) * (x * x + y * y)[..., None]
    )
    light *= rng.normal(1.0, 0.012) * rng.normal(1, 0.008, 3)
    canvas *= cv2.resize(light.astype(np.float32), (w, h))
    grains = np.frombuffer(rng.bytes(h * w * 3), np.uint8).reshape(h, w, 3)
    noise = cv2.LUT(grains, _GAUSS * np.float32(rng.uniform(1.2, 2.4)))
    return cv2.add(canvas, noise, dtype=cv2.CV_8U)
