"""Find which of many images a picture was made from, and by which affine map: SIFT features and RANSAC.

A mirrored picture has mirrored features, which SIFT does not recognise: each picture is tried as it is and
mirrored. Coordinates are pixel centres, OpenCV's convention.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from wbcjax.typing import Bool, Float, Image, Size, UInt8

FEATURES = 300
"""SIFT features an image."""
_CONTRAST = 0.01  # SIFT's contrast threshold: its default of 0.04 finds only about 80 features in a smear
_RATIO = 0.8  # Lowe's test: the nearest feature must be nearer than this times the second nearest
_REPROJECTION = 3.0  # pixels within which a match agrees with a map
_CANDIDATES = 6  # images, by votes of nearest features, for which a map is fitted
_CHUNK = 64  # features searched at a time, to keep the distances in tens of megabytes


@dataclass(frozen=True, eq=False)
class Index:
    """Features of the images to search in, ``FEATURES`` rows for each image; unused rows are zero."""

    names: tuple[str, ...]
    points: Float[np.ndarray, "images features 2"]
    descriptors: UInt8[np.ndarray, "images features 128"]

    @cached_property
    def used(self) -> Bool[np.ndarray, "images features"]:
        """Which rows hold a feature."""
        return self.descriptors.any(axis=2)

    @cached_property
    def pool(self) -> Float[np.ndarray, "used 129"]:
        """All used descriptors p as (-2 p, |p|²): times (q, 1) it gives |p - q|² - |q|²."""
        rows = self.descriptors[self.used].astype(np.float32)
        return np.concatenate([-2 * rows, (rows**2).sum(axis=1, keepdims=True)], axis=1)


@dataclass(frozen=True, eq=False)
class Match:
    """The image a picture was made from, and the runner-up."""

    name: str | None
    """None when no map was found at all."""
    affine: Float[np.ndarray, "2 3"]
    """From the image (resized to the picture's size) to the picture."""
    inliers: int
    second_name: str | None
    second_inliers: int


def features(image: Image) -> tuple[Float[np.ndarray, "n 2"], UInt8[np.ndarray, "n 128"]]:
    """Points (x, y) and SIFT descriptors (whole numbers in 0..255) of the strongest features."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found, descriptors = cv2.SIFT_create(FEATURES, contrastThreshold=_CONTRAST).detectAndCompute(grey, None)
    if not found:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    points = np.array([point.pt for point in found[:FEATURES]], np.float32)  # ties can give a few more
    return points, descriptors[:FEATURES].astype(np.uint8)


def build_index(names: tuple[str, ...], images: list[UInt8[np.ndarray, "_ _ 3"]], size: Size) -> Index:
    """Features of images, each resized (OpenCV linear) to ``size``, the (height, width) of the pictures to
    come."""
    points = np.zeros((len(images), FEATURES, 2), np.float32)
    descriptors = np.zeros((len(images), FEATURES, 128), np.uint8)
    for i, image in enumerate(images):
        found, described = features(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))
        points[i, : len(found)] = found
        descriptors[i, : len(found)] = described
    return Index(names, points, descriptors)


def register(picture: Image, index: Index) -> Match:
    """Find the image of ``index`` that most features of the picture agree on."""
    width = picture.shape[1]
    best: dict[int, tuple[int, np.ndarray]] = {}
    for mirrored in (False, True):
        points, descriptors = features(np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture)
        for image, inliers, affine in _candidates(points, descriptors, index):
            if mirrored:
                affine = np.diag([-1.0, 1.0]) @ affine + [[0, 0, width - 1], [0, 0, 0]]
            if inliers > best.get(image, (0, None))[0]:
                best[image] = (inliers, affine)
    ranked = sorted(best, key=lambda image: (-best[image][0], image))
    names = [index.names[image] for image in ranked] + [None, None]
    inliers = [best[image][0] for image in ranked] + [0, 0]
    affine = best[ranked[0]][1] if ranked else np.zeros((2, 3))
    return Match(names[0], affine.astype(np.float32), inliers[0], names[1], inliers[1])


def _candidates(points: np.ndarray, descriptors: np.ndarray, index: Index) -> list[tuple[int, int, np.ndarray]]:
    """(image, inliers, affine map) of the images that the most nearest features belong to."""
    if len(points) < 3:
        return []
    query = np.pad(descriptors.astype(np.float32), ((0, 0), (0, 1)), constant_values=1)
    owner = np.nonzero(index.used)[0]
    chunks = (query[i : i + _CHUNK] for i in range(0, len(query), _CHUNK))
    nearest = np.concatenate([owner[(chunk @ index.pool.T).argmin(axis=1)] for chunk in chunks])
    votes = np.bincount(nearest, minlength=len(index.names))
    matcher = cv2.BFMatcher()
    result = []
    for image in np.argsort(-votes, kind="stable")[:_CANDIDATES]:
        used = index.used[image]
        pairs = matcher.knnMatch(descriptors.astype(np.float32), index.descriptors[image, used].astype(np.float32), k=2)
        good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < _RATIO * pair[1].distance]
        if len(good) < 3:
            continue
        affine, inside = cv2.estimateAffine2D(
            index.points[image, used][[match.trainIdx for match in good]],
            points[[match.queryIdx for match in good]],
            ransacReprojThreshold=_REPROJECTION,
        )
        if affine is not None:
            result.append((int(image), int(inside.sum()), affine))
    return result
