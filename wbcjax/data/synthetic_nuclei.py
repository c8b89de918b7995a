"""Nuclei of the four classes of white cells, as signed distances on a grid.

A nucleus is a function of the grid's x and y in cell radii, (h, w) float32 with the cell's centre at 0. It gives
the distance to the border, negative inside: lobes are ellipses, bridges are rods, a kidney is a thick arc.
"""

import cv2
import numpy as np


def _ellipse(x, y, center, radii, turn):
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = x - np.float32(center[0]), y - np.float32(center[1])
    u, v = (cos * x + sin * y) / np.float32(radii[0]), (cos * y - sin * x) / np.float32(radii[1])
    return (cv2.magnitude(u, v) - 1) * np.float32(min(radii))


def _bridge(x, y, a, b, radius):
    """Distance to a rod from ``a`` to ``b``."""
    dx, dy = np.float32(b - a)
    t = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-6), 0, 1).astype(np.float32)
    return cv2.magnitude(x - np.float32(a[0]) - t * dx, y - np.float32(a[1]) - t * dy) - np.float32(radius)


def _join(a, b, k=0.06):
    """Smooth union of two signed distances."""
    mix = np.clip(k - np.abs(a - b), 0, None)
    return np.minimum(a, b) - mix * mix / np.float32(4 * k)


def _lobes(rng, x, y, centers, long, short, rod):
    """Lobes along a chain, tied by thin rods of chromatin."""
    distance = None
    for i, center in enumerate(centers):
        turn = np.arctan2(*center[::-1]) + np.pi / 2 + rng.normal(0, 0.5)
        lobe = _ellipse(x, y, center, (rng.uniform(*long), rng.uniform(*short)), turn)
        distance = lobe if distance is None else _join(distance, lobe)
        if i:
            distance = _join(distance, _bridge(x, y, centers[i - 1], center, rod))
    return distance


def _eosinophil(rng, x, y):
    """Two (seldom three) large lobes side by side, like spectacles, out of the cell's centre."""
    n = 3 if rng.random() < 0.12 else 2
    gap = rng.uniform(1.5, 2.3)
    angles = (np.arange(n) - (n - 1) / 2) * gap
    centers = rng.uniform(0.46, 0.56) * np.stack([np.cos(angles), np.sin(angles)], 1) - [0.1, 0]
    return _lobes(rng, x, y, centers, (0.42, 0.5), (0.32, 0.39), rng.uniform(0.06, 0.12))


def _lymphocyte(rng, x, y):
    """One round dense nucleus that leaves a thin rim, at times with a shallow dent."""
    size = rng.uniform(0.76, 0.88)
    center = rng.normal(0, 0.35 * (1 - size), 2)
    body = _ellipse(x, y, center, (size, size * rng.uniform(0.9, 1)), rng.uniform(0, np.pi))
    if rng.random() < 0.35:
        dent = _ellipse(x, y, (center[0] + size * 1.12, center[1]), (0.25, 0.4), 0.0)
        body = -_join(-body, dent, 0.1)
    return body


def _monocyte(rng, x, y):
    """A kidney or horseshoe: a thick arc."""
    opening = rng.uniform(1.05, 2.1)
    bow = rng.uniform(0.36, 0.45)
    thick = rng.uniform(0.36, 0.43)
    x, y = np.abs(x), y + np.float32(0.06)
    sin, cos = np.float32(np.sin(opening)), np.float32(np.cos(opening))
    tip = cv2.magnitude(x - np.float32(bow) * sin, y - np.float32(bow) * cos)
    ring = np.abs(cv2.magnitude(x, y) - np.float32(bow))
    return np.where(cos * x < sin * y, ring, tip) - np.float32(thick)


def _neutrophil(rng, x, y):
    """Three to five lobes on a bent chain, tied by thin threads."""
    n = int(rng.choice([3, 4, 5], p=[0.4, 0.4, 0.2]))
    span = rng.uniform(1.15, 1.5) * (n - 1)
    angles = np.linspace(-0.5, 0.5, n) * min(span, 4.5) + rng.normal(0, 0.15, n)
    reach = rng.uniform(0.4, 0.63, n)
    centers = reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return _lobes(rng, x, y, centers, (0.3, 0.38), (0.22, 0.28), rng.uniform(0.06, 0.1))


NUCLEI = (_eosinophil, _lymphocyte, _monocyte, _neutrophil)
"""One function (rng, x, y) -> distance a class, in the order of ``CLASS_NAMES``."""
