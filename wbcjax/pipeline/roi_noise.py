"""Noise before the region of interest is found: what the paper, which adds noise after cropping, leaves out.

Two questions: how well localisers meet the annotated boxes in noisy images, and what that costs at the end of the
chain, where the crop of a noisy file is classified. For one seed an image has the same noise at every level, rounded to
8 bits as in a file.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from wbcjax import config as cfg
from wbcjax.data import load_images, voc
from wbcjax.data.splits import detector_split
from wbcjax.evaluation.iou import best_iou
from wbcjax.evaluation.noise import add_noise, gaussian
from wbcjax.evaluation.results import row, write_results
from wbcjax.evaluation.uncertainty import Interval, bootstrap_mean
from wbcjax.models import Classifier
from wbcjax.pipeline.detector import Detector
from wbcjax.pipeline.inputs import FILE_SIZE, classifier_inputs, data_root, thinned
from wbcjax.pipeline.localisation import TEST, TRAIN, VARIANTS
from wbcjax.pipeline.rows import Rows
from wbcjax.pipeline.runs import load_run
from wbcjax.pipeline.studies import ensure_trained, proven_fingerprint
from wbcjax.pipeline.workdir import portable
from wbcjax.roi import EXPANDED, color_rois, crop, crops
from wbcjax.training import predict_logits, split
from wbcjax.typing import Array, Bool, Box, Float, Image, Images, UInt8

ALPHAS = tuple(round(0.05 * k, 2) for k in range(11))
BLURS = (3, 5, 7, 9, 11, 15, 19, 23)
"""Kernels tried for the robust colour ROI, in pixels at its working width of 320."""
AFTER, SAME_BOX, BEFORE = "after cropping", "before cropping, box of the clean file", "before the ROI"
"""Where noise comes into the chain."""

Key = TypeVar("Key")
Localise = Callable[[Images], list[Box | None]]
"""Images of one size to the box of the cell in each, or None."""

NOTES = (
    "noise_iou: as Table 2's and 3's IoU by image, on BCCD's published boxes; missed_share: images without a predicted "
    "box. Means over the noise seeds, intervals bootstrapped over images. The detector was trained without noise.",
    "robust: the expanded colour ROI with a stronger blur, chosen on the detector's training images for the mean IoU "
    "over all noise levels.",
    "chain_accuracy: of files of TEST, evenly spaced within each original, cropped and classified; noise comes after "
    "cropping as in the paper, or into the file, which is then cropped by the clean file's box or by one that is found "
    "in the noisy file. Files without a box are classified whole. Intervals are bootstrapped over originals within "
    "class.",
)


@dataclass(frozen=True)
class RoiNoise:
    """How large the study is."""

    alphas: tuple[float, ...] = ALPHAS
    seeds: int = 5
    chain_alphas: tuple[float, ...] = ALPHAS[::2]
    chain_seeds: int = 3
    chain_share: float = 0.25
    """Share of the files of each TEST original."""
    detector: Path | None = None
    """Weights of the Mask R-CNN; None takes the packaged compact one."""


def roi_noise_study(
    networks: Mapping[str, cfg.ClassifierConfig],
    size: RoiNoise = RoiNoise(),
    *,
    experiment: str,
    runs: Path,
    results: Path,
) -> Rows:
    """Measure localisers and the whole chain under noise; writes ``results/<experiment>.json``.

    Args:
      networks: classifiers of colour-ROI crops by name; their runs are reused or trained.
    """
    started = time.perf_counter()
    data = next(iter(networks.values())).data
    bccd = voc(data_root(data), strict=False)
    train, test = (bccd.select(names) for names in detector_split(bccd))
    robust, rows = robust_roi(load_images(train.paths, strict=data.strict), train.boxes_of("wbc"), size.alphas)
    localisers = all_localisers(robust, size.detector)
    images = load_images(test.paths, strict=data.strict)
    found = localised(localisers, images, test.boxes_of("wbc"), size.alphas, size.seeds)
    for (model, variant), (iou, missed) in found.items():
        common = {"model": model, "input": "whole", "split": TEST, **({"variant": variant} if variant else {})}
        rows += localisation_rows(iou, missed, size.alphas, **common)
    for name, config in networks.items():
        model, _ = load_run(ensure_trained(config, runs))
        rows += chain_rows(model, config, localisers, size, classifier=name, seed=config.train.seed)
    write_results(
        results / f"{experiment}.json", experiment=experiment, rows=rows, seeds=list(range(size.seeds)),
        config={"size": size, "robust": robust, "runs": {name: portable(c) for name, c in networks.items()}},
        data_fingerprint=proven_fingerprint(data), wall_time=time.perf_counter() - started, notes=NOTES,
    )
    return rows


def all_localisers(robust: cfg.ColorRoiConfig, weights: Path | None = None) -> dict[tuple[str, str], Localise]:
    """The localisers that are compared, by model and variant."""
    detector = Detector.load(weights)

    def detected(images: Images) -> list[Box | None]:
        return [detector.best_box(found) for found in detector(list(images), batch_size=len(images))]

    colors = {("color", name): by_color(config) for name, config in {**VARIANTS, "robust": robust}.items()}
    return {**colors, (f"mask_rcnn_{detector.config.model.backbone}", ""): detected}


def by_color(config: cfg.ColorRoiConfig) -> Localise:
    """The colour ROI as a localiser."""
    return lambda images: color_rois(images, config)


def noisy_copies(image: Image, alphas: Sequence[float], seed: int, index: int) -> Images:
    """The image at each noise level, in 8 bits, with the noise of image ``index`` at ``seed``."""
    return np.asarray(_noisy_copies(image, jnp.asarray(alphas, jnp.float32), seed, index))


@jax.jit
def _noisy_copies(
    image: UInt8[Array, "h w 3"], alphas: Float[Array, "alphas"], seed: int | Array, index: int | Array
) -> UInt8[Array, "alphas h w 3"]:
    clean = image.astype(jnp.float32) / 255
    noise = gaussian(jax.random.key(0), seed, index, clean.shape)
    noisy = jax.vmap(lambda alpha: add_noise(clean, noise, alpha))(alphas)
    return jnp.round(255 * noisy).astype(jnp.uint8)


def localised(
    localisers: Mapping[Key, Localise],
    images: Sequence[np.ndarray] | np.ndarray,
    true: Sequence[Float[np.ndarray, "_ 4"]],
    alphas: Sequence[float],
    seeds: int,
) -> dict[Key, tuple[Float[np.ndarray, "alphas seeds n"], Bool[np.ndarray, "alphas seeds n"]]]:
    """For each localiser the IoU of each image at each noise level and seed (0 without a box, NaN where none is
    annotated), and whether no box was found."""
    shape = len(alphas), seeds, len(images)
    out = {key: (np.zeros(shape, np.float32), np.zeros(shape, bool)) for key in localisers}
    for i, image in enumerate(images):
        for seed in range(seeds):
            copies = noisy_copies(image, alphas, seed, i)
            for key, (iou, missed) in out.items():
                found = localisers[key](copies)
                iou[:, seed, i] = best_iou(found, [true[i]] * len(alphas))
                missed[:, seed, i] = [box is None for box in found]
    return out


def robust_roi(
    images: Sequence[np.ndarray] | np.ndarray, true: Sequence[Float[np.ndarray, "_ 4"]], alphas: Sequence[float]
) -> tuple[cfg.ColorRoiConfig, Rows]:
    """The expanded colour ROI with the blur of ``BLURS`` that has the highest mean IoU over the images, which must be
    training images, and noise levels; and the mean IoU of each."""
    configs = {kernel: replace(EXPANDED, blur_kernel=kernel) for kernel in BLURS}
    found = localised({kernel: by_color(config) for kernel, config in configs.items()}, images, true, alphas, 1)
    scores = {kernel: float(np.nanmean(iou)) for kernel, (iou, _) in found.items()}
    rows = [row(model="color", input="whole", split=TRAIN, variant=f"expanded, blur of {kernel} pixels",
                metric="noise_iou", value=score) for kernel, score in scores.items()]
    return configs[max(scores, key=scores.__getitem__)], rows


def localisation_rows(
    iou: Float[np.ndarray, "alphas seeds n"], missed: Bool[np.ndarray, "alphas seeds n"], alphas: Sequence[float],
    **common,
) -> Rows:
    """Mean IoU and share of missed images at each noise level, with intervals over images."""
    rows = []
    for alpha, values, none in zip(alphas, iou.mean(axis=1), missed.mean(axis=1), strict=True):
        at = {**common, "alpha": alpha}
        rows.append(row(**at, metric="noise_iou", **mean_over_images(values[~np.isnan(values)])._asdict()))
        rows.append(row(**at, metric="missed_share", **mean_over_images(none)._asdict()))
    return rows


def mean_over_images(values: Float[np.ndarray, "n"]) -> Interval:
    """Mean, with the interval of images drawn with replacement."""
    return bootstrap_mean(values, tuple(map(str, range(len(values)))), np.zeros(len(values), int))


def chain_rows(
    model: Classifier,
    config: cfg.ClassifierConfig,
    localisers: Mapping[tuple[str, str], Localise],
    size: RoiNoise,
    **common,
) -> Rows:
    """Accuracy of one classifier at each noise level, with noise after cropping and before, there with each localiser.

    The box of a clean file is that of the config's own colour ROI.
    """
    whole = replace(config, input="whole", model=replace(config.model, image_size=FILE_SIZE))
    files = thinned(classifier_inputs(whole, "TEST"), size.chain_share)
    places = [(AFTER, "color", ""), (SAME_BOX, "color", ""), *((BEFORE, *key) for key in localisers)]
    hits = np.zeros((len(places), len(size.chain_alphas), len(files)))
    missed = np.zeros(hits.shape)
    weights, boxes = split(model), color_rois(files.images, config.roi)
    for i, (image, box) in enumerate(zip(files.images, boxes, strict=True)):
        for seed in range(size.chain_seeds):
            pictures, found = chain_inputs(np.asarray(image), box, config, list(localisers.values()),
                                           size.chain_alphas, seed, i)
            flat = pictures.reshape(-1, *pictures.shape[2:])
            logits = predict_logits(*weights, flat, views=config.test_views, batch_size=len(flat))
            classes = logits.argmax(axis=-1)
            hits[:, :, i] += (classes == files.labels[i]).reshape(hits.shape[:2]) / size.chain_seeds
            missed[:, :, i] += ~found / size.chain_seeds
    rows = []
    for (added, localiser, variant), right, none in zip(places, hits, missed, strict=True):
        at = {"model": config.model.name, "input": "roi", "split": "TEST", "added": added, "localiser": localiser,
              "variant": variant or None, "images": len(files), **common}
        for alpha, by_file, without in zip(size.chain_alphas, right, none, strict=True):
            rows.append(row(**at, alpha=alpha, metric="chain_accuracy",
                            **bootstrap_mean(by_file, files.sources, files.labels)._asdict()))
            rows.append(row(**at, alpha=alpha, metric="missed_share", value=without.mean()))
    return rows


def chain_inputs(
    image: Image,
    box: Box | None,
    config: cfg.ClassifierConfig,
    localisers: Sequence[Localise],
    alphas: Sequence[float],
    seed: int,
    index: int,
) -> tuple[UInt8[np.ndarray, "places alphas h w 3"], Bool[np.ndarray, "places alphas"]]:
    """What a classifier sees of one file at each noise level, and whether there was a box: noise after cropping, noise
    before cropping by ``box``, and noise before each localiser."""
    side, noisy = tuple(config.model.image_size), noisy_copies(image, alphas, seed, index)
    boxes = [[box] * len(alphas), *(localise(noisy) for localise in localisers)]
    after = noisy_copies(crop(image, box, side, config.crop), alphas, seed, index)
    pictures = [after, *(crops(noisy, of_place, side, config.crop) for of_place in boxes)]
    found = [[one is not None for one in of_place] for of_place in (boxes[0], *boxes)]
    return np.stack(pictures), np.array(found, bool)
