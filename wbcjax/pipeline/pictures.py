"""The figures of one reproduction: from its results files, its runs and its images."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wbcjax import config as cfg
from wbcjax.data.images import read_image
from wbcjax.data.kaggle import originals
from wbcjax.data.splits import detector_split
from wbcjax.data.voc import voc
from wbcjax.evaluation.iou import best_iou
from wbcjax.evaluation.noise import add_noise, gaussian
from wbcjax.evaluation.results import PAPER
from wbcjax.pipeline.detector import Detector
from wbcjax.pipeline.detector_runs import bccd
from wbcjax.pipeline.detector_study import draw_bccd, measure
from wbcjax.pipeline.inputs import Inputs, data_root
from wbcjax.pipeline.localisation import VARIANTS
from wbcjax.pipeline.presets import Preset
from wbcjax.pipeline.runs import load_run, predict_split
from wbcjax.pipeline.studies import Splits, run_folder
from wbcjax.report import figures as draw
from wbcjax.report.cells import INPUT_NAMES, MODEL_NAMES, label
from wbcjax.report.html import add_figure
from wbcjax.report.tables import confusion_counts, input_name, load_results
from wbcjax.roi import color_roi, color_rois, steps
from wbcjax.typing import CLASS_NAMES

EXAMPLES = 8
"""Images of the detection figure."""
WORST = 12
"""Misread originals shown at most."""


def draw_figures(
    preset: Preset,
    data: cfg.DataConfig,
    runs: Path,
    results: Path,
    folder: Path,
    splits: Splits,
    detector: Path | None,
    progress: Callable[[int, int], None],
) -> None:
    """Draw every figure into ``folder``, and enter it in the index that the report reads.

    Args:
      detector: weights of the Mask R-CNN to show, where there is one.
    """
    rows = [{**row, "experiment": result["experiment"]} for result in load_results(results) for row in result["rows"]]
    configs = preset.configs(data)
    jobs: list[Callable[[], None]] = [
        lambda: localisation_figures(data, folder),
        lambda: confusion_figures(rows, folder),
        lambda: noise_figure(rows, folder),
        lambda: training_figures(configs, runs, folder),
        lambda: noise_example_figure(preset, splits.get(configs[-1], "TEST"), folder),
        lambda: misread_figure(configs[-1], runs, splits, folder),
    ]
    if detector is not None:
        jobs.insert(1, lambda: detector_figures(detector, data, folder))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    for number, job in enumerate(jobs, 1):
        job()
        progress(number, len(jobs))


def localisation_figures(data: cfg.DataConfig, folder: Path) -> None:
    """Figures 3, 7 and 8: the steps of the colour ROI, its boxes, and the distribution of their IoU."""
    bccd = voc(data_root(data), strict=False)
    test = bccd.select(detector_split(bccd)[1])
    images = [read_image(path, strict=data.strict) for path in test.paths]
    true = test.boxes_of("wbc")
    found = {name: color_rois(images, variant) for name, variant in VARIANTS.items()}
    iou = {name: best_iou(boxes, true) for name, boxes in found.items()}
    # Typical, not flattering: the image whose expanded IoU is the median, and a spread from worst to best.
    order = np.argsort(np.nan_to_num(iou["expanded"], nan=-1.0), kind="stable")
    order = order[np.isfinite(iou["expanded"][order])]
    middle = int(order[len(order) // 2])
    for name, variant in VARIANTS.items():
        path = draw.roi_steps(steps(images[middle], variant), folder / f"fig3_{name}.png",
                              box=color_roi(images[middle], variant), true_boxes=true[middle])
        add_figure(path, "roi", f"Figure 3. The steps of the colour ROI, {name}", f"On {test.names[middle]}.")
    chosen = order[np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).round().astype(int)]
    for name, color in (("faithful", "black"), ("expanded", "orange")):
        path = draw.detections([images[i] for i in chosen], [found[name][i] for i in chosen], [true[i] for i in chosen],
                               iou[name][chosen], folder / f"fig7_{name}.png", names=[test.names[i] for i in chosen],
                               color=color)
        add_figure(path, "roi", f"Figure 7. Boxes found by the colour ROI, {name}",
                   "From the worst to the best image of the expanded variant, evenly spaced.")
    path = draw.iou_distribution({f"Colour ROI, {name}": values for name, values in iou.items()},
                                 folder / "fig8_iou.png",
                                 paper_mean={"Colour ROI, faithful": PAPER[("color", "whole", "mean_iou")]})
    add_figure(path, "roi", "Figure 8. Distribution of the IoU", "Over the detector's test images.")


def detector_figures(weights: Path, data: cfg.DataConfig, folder: Path) -> None:
    """Figures 9 and 10 of one detector: the distribution of its IoU, and the images it does worst on."""
    detector = Detector.load(weights)
    draw_bccd(detector, measure(detector, data, bccd(data)), folder)


def confusion_figures(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Tables 4 to 7 as pictures, one a run."""
    for run, counts, names, _ in confusion_counts(rows):
        title = f"{label(run)}, {input_name(run)}"
        path = folder / f"confusion_{run['model']}_{run['input']}_{run['split']}.png"
        add_figure(draw.confusion_matrices(counts, names, path, title=title), "confusion", title)


def noise_figure(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Figure 12: accuracy against the noise level."""
    panels: dict[str, list[draw.Curve]] = {}
    noisy = [row for row in rows if "alpha" in row and row["metric"] == "accuracy"]
    for model, input in dict.fromkeys((row["model"], row["input"]) for row in noisy):
        same = sorted((row for row in noisy if (row["model"], row["input"]) == (model, input)),
                      key=lambda row: row["alpha"])
        columns = ("alpha", "value", "low", "high")
        alphas, values, low, high = (tuple(float(row[key]) for row in same) for key in columns)
        paper = {float(row["alpha"]): row["paper"] for row in same if "paper" in row}
        curve = draw.Curve(MODEL_NAMES[model], alphas, values, low, high, paper or None)
        panels.setdefault(INPUT_NAMES[input], []).append(curve)
    path = draw.noise_curves(panels, folder / "fig12_noise.png")
    add_figure(path, "noise", "Figure 12. Accuracy under Gaussian noise", "Bands are 95 % intervals over originals.")


def training_figures(configs: Sequence[cfg.ClassifierConfig], runs: Path, folder: Path) -> None:
    """Loss and accuracy of every run."""
    for input in dict.fromkeys(config.input for config in configs):
        metrics = {MODEL_NAMES[config.model.name]: run_folder(runs, config) / "metrics.jsonl"
                   for config in configs if config.input == input}
        path = draw.training_curves(metrics, folder / f"training_{input}.png")
        add_figure(path, "training", f"Training on {INPUT_NAMES[input].lower()}")


def noise_example_figure(preset: Preset, test: Inputs, folder: Path) -> None:
    """Figure 11: one crop of each class under every noise level."""
    first = [int(np.argmax(test.labels == k)) for k in range(len(CLASS_NAMES))]
    clean = jnp.asarray(test.images[np.array(first)], jnp.float32) / 255
    noise = jnp.stack([gaussian(jax.random.key(0), 0, i, clean.shape[1:]) for i in first])
    noisy = np.stack([np.asarray(add_noise(clean, noise, alpha)) for alpha in preset.noise.alphas], axis=1)
    path = draw.noise_examples((noisy * 255).round().astype(np.uint8), preset.noise.alphas,
                               folder / "fig11_noise_examples.png", labels=CLASS_NAMES)
    add_figure(path, "noise", "Figure 11. Crops under Gaussian noise")


def misread_figure(config: cfg.ClassifierConfig, runs: Path, splits: Splits, folder: Path) -> None:
    """The TEST originals of which the run misreads most copies."""
    model, _ = load_run(run_folder(runs, config))
    predictions = predict_split(model, splits.get(config, "TEST"), config)
    sources = np.array(predictions.sources)
    wrong = predictions.classes != predictions.labels
    shares = {name: float(wrong[sources == name].mean()) for name in np.unique(sources).tolist()}
    worst = [name for name in sorted(shares, key=lambda n: (-shares[n], n)) if shares[name] >= 0.5][:WORST]
    known = originals(data_root(config.data), "TEST")
    paths = dict(zip(known.sources, known.paths, strict=True))
    true = {name: CLASS_NAMES[int(predictions.labels[sources == name][0])] for name in worst}
    read_as = {name: CLASS_NAMES[int(np.bincount(predictions.classes[(sources == name) & wrong]).argmax())]
               for name in worst}
    path = draw.misread_originals([read_image(paths[name]) for name in worst], worst, [true[n] for n in worst],
                                  [read_as[n] for n in worst], [shares[n] for n in worst], folder / "misread.png",
                                  copies=[int((sources == n).sum()) for n in worst])
    where = INPUT_NAMES[config.input].lower()
    add_figure(path, "misread", f"Originals that {MODEL_NAMES[config.model.name]} on {where} mostly misreads")


def misread_by_all(rows: Sequence[dict[str, Any]], split: str, data: cfg.DataConfig, path: Path) -> list[str]:
    """The originals of ``split`` of which every network, trained as a whole on crops, misreads most copies: drawn in
    ``path``.

    Returns:
      Their names, worst first.
    """
    shares: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        whole_network = row.get("protocol") != "frozen" and row["input"] == "roi"
        if row["metric"] == "source_accuracy" and row["split"] == split and whole_network:
            shares.setdefault(row["source"], []).append(row)
    wrong = {name: 1 - float(np.mean([row["value"] for row in found])) for name, found in shares.items()
             if all(row["value"] < 0.5 for row in found)}
    worst = sorted(wrong, key=lambda name: (-wrong[name], name))
    known = originals(data_root(data))
    paths = dict(zip(known.sources, known.paths, strict=True))
    read_as = [Counter(row["read_as"] for row in shares[name]).most_common(1)[0][0] for name in worst]
    draw.misread_originals([read_image(paths[name]) for name in worst], worst,
                           [shares[name][0]["class_name"] for name in worst], read_as, [wrong[name] for name in worst],
                           path)
    networks = dict.fromkeys(MODEL_NAMES[row["model"]] for found in shares.values() for row in found)
    add_figure(path, "misread", f"Originals that are misread by {', '.join(networks)}",
               f"{split[:1].upper()}{split[1:]}. The share is the mean over networks and kinds of crops.")
    return worst
