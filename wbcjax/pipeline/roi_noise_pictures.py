"""The figures of noise before the ROI."""

from pathlib import Path

from wbcjax import config as cfg
from wbcjax.data import read_image, voc
from wbcjax.data.splits import detector_split
from wbcjax.evaluation.results import read_results
from wbcjax.pipeline.inputs import data_root
from wbcjax.pipeline.roi_noise import all_localisers, noisy_copies
from wbcjax.report.cells import label
from wbcjax.report.html import add_figure
from wbcjax.report.roi_noise import roi_noise_curves, roi_noise_examples
from wbcjax.roi import crops

ALPHAS = (0.0, 0.1, 0.2, 0.35, 0.5)
EXAMPLES = (20, 90)
"""Positions of the images that are shown among the detector's test images, which their names order."""
SIDE = 96


def draw_roi_noise(results: Path, data: cfg.DataConfig, folder: Path, detector: Path | None = None) -> list[Path]:
    """Draw curves and examples of a results file into ``folder``, and enter them in its index."""
    study = read_results(results)
    curves = roi_noise_curves(study["rows"], folder / "roi_noise.png")
    add_figure(curves, "noise", "Noise before the region of interest is found",
               "Bands are 95 % intervals: of the IoU over images, of the accuracy over originals within class, drawn "
               "for noise after cropping alone.")
    localisers = all_localisers(cfg.from_dict(cfg.ColorRoiConfig, study["config"]["robust"]), detector)
    names = [label({"model": model, **({"variant": variant} if variant else {})}) for model, variant in localisers]
    bccd = voc(data_root(data), strict=False)
    test = bccd.select(detector_split(bccd)[1])
    chosen = [position % len(test) for position in EXAMPLES]
    pictures = [noisy_copies(read_image(test.paths[i]), ALPHAS, 0, i) for i in chosen]
    found = [{name: localise(picture) for name, localise in zip(names, localisers.values(), strict=True)}
             for picture in pictures]
    shown = names[1:3]  # the colour ROI, expanded and robust
    cut = [{name: crops(picture, boxes[name], (SIDE, SIDE)) for name in shown}
           for picture, boxes in zip(pictures, found, strict=True)]
    examples = roi_noise_examples(pictures, found, cut, ALPHAS, folder / "roi_noise_examples.png", names=names)
    add_figure(examples, "noise", "What localisers find in noisy images",
               "Boxes in the image, and the crops of two of them; a crop without a box is the whole image.")
    return [curves, examples]
