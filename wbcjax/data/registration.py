"""Find which of many images a picture was made from, and by which affine map: SIFT features and RANSAC.

A mirrored picture has mirrored features, which SIFT does not recognise: each picture is tried as it is and
mirrored. Coordinates are pixel centres, OpenCV's convention.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from wbcjax.data.images import read_image
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
    """Features of the images to search in, the same number of rows for each image; unused rows are zero."""

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
    """Matches of features that agree with the map."""
    second_name: str | None
    second_inliers: int


def features(
    image: Image, count: int = FEATURES
) -> tuple[Float[np.ndarray, "n 2"], UInt8[np.ndarray, "n 128"]]:
    """Points (x, y) and SIFT descriptors (whole numbers in 0..255) of the strongest features."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found, descriptors = cv2.SIFT_create(count, contrastThreshold=_CONTRAST).detectAndCompute(grey, None)
    if not found:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    points = np.array([point.pt for point in found[:count]], np.float32)  # ties can give a few more
    return points, descriptors[:count].astype(np.uint8)


def build_index(
    names: Sequence[str], images: Sequence[UInt8[np.ndarray, "_ _ 3"]], size: Size, count: int = FEATURES
) -> Index:
    """Features of images, each resized (OpenCV linear) to ``size``, the (height, width) of the pictures."""
    points = np.zeros((len(images), count, 2), np.float32)
    descriptors = np.zeros((len(images), count, 128), np.uint8)
    for i, image in enumerate(images):
        resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        found, described = features(resized, count)
        points[i, : len(found)] = found
        descriptors[i, : len(found)] = described
    return Index(tuple(names), points, descriptors)


def candidates(
    points: Float[np.ndarray, "n 2"],
    descriptors: UInt8[np.ndarray, "n 128"],
    index: Index,
    *,
    count: int = _CANDIDATES,
    exclude: int | None = None,
) -> list[tuple[int, int, Float[np.ndarray, "2 3"]]]:
    """(image, inliers, affine map) of the ``count`` images that most nearest features belong to.

    Args:
      points: of the picture's features; ``descriptors`` too.
      exclude: an image that is left out of the search.
    """
    if len(points) < 3:
        return []
    owner = np.nonzero(index.used)[0]
    query = np.pad(descriptors.astype(np.float32), ((0, 0), (0, 1)), constant_values=1)
    votes = np.zeros(len(index.names), int)
    for start in range(0, len(query), _CHUNK):
        distance = query[start : start + _CHUNK] @ index.pool.T
        if exclude is not None:
            distance[:, owner == exclude] = np.inf
        np.add.at(votes, owner[distance.argmin(axis=1)], 1)

    matcher = cv2.BFMatcher()
    result = []
    for image in np.argsort(-votes, kind="stable")[:count]:
        used = index.used[image]
        described = index.descriptors[image, used].astype(np.float32)
        pairs = matcher.knnMatch(query[:, :128].copy(), described, k=2)
        good = [p[0] for p in pairs if len(p) == 2 and p[0].distance < _RATIO * p[1].distance]
        if image == exclude or len(good) < 3:
            continue
        affine, inside = cv2.estimateAffine2D(
            index.points[image, used][[match.trainIdx for match in good]],
            points[[match.queryIdx for match in good]],
            ransacReprojThreshold=_REPROJECTION,
        )
        if affine is not None and np.isfinite(affine).all():
            result.append((int(image), int(inside.sum()), affine))
    return result


def register(picture: Image, index: Index) -> Match:
    """Find the image of ``index`` that most features of the picture agree on."""
    width = picture.shape[1]
    best: dict[int, tuple[int, np.ndarray]] = {}
    for mirrored in (False, True):
        points, descriptors = features(np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture)
        for image, inliers, affine in candidates(points, descriptors, index):
            if mirrored:
                affine = affine * [[-1.0], [1.0]] + [[0, 0, width - 1], [0, 0, 0]]
            if image not in best or inliers > best[image][0]:
                best[image] = (inliers, affine)
    ranked = sorted(best, key=lambda image: (-best[image][0], image))
    names = [index.names[image] for image in ranked] + [None, None]
    inliers = [best[image][0] for image in ranked] + [0, 0]
    affine = best[ranked[0]][1] if ranked else np.zeros((2, 3))
    return Match(names[0], affine.astype(np.float32), inliers[0], names[1], inliers[1])


def register_files(
    paths: Sequence[Path], index: Index, *, workers: int | None = None, progress: bool = False
) -> list[Match]:
    """``register`` for many files, in parallel processes.

    Args:
      workers: processes; None is one a core, 1 stays in this process.
      progress: show a progress bar.

    Raises:
      DataError: the first file that is no image.
    """
    from rich.console import Console
    from rich.progress import track

    workers = min(workers or os.cpu_count() or 1, max(len(paths), 1))
    show = {"total": len(paths), "disable": not progress, "console": Console(stderr=True)}
    if workers == 1:
        return list(track((register(read_image(p), index) for p in paths), "Registering images", **show))
    # Not forked: a forked copy of a process that runs JAX can hang.
    context = multiprocessing.get_context("spawn")
    with (
        _one_thread_a_process(),
        ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(index,)) as pool,
    ):
        try:
            return list(track(pool.map(_register_file, paths, chunksize=4), "Registering images", **show))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _one_thread_a_process() -> Iterator[None]:
    """Have the matrix products of child processes use one thread, since the processes fill the cores."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker(index: Index) -> None:
    global _worker_index
    cv2.setNumThreads(1)
    _worker_index = index


def _register_file(path: Path) -> Match:
    return register(read_image(path), _worker_index)
