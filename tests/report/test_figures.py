"""Figures: files that open, colours where they belong, the metrics file read as it is written, clear refusals."""

import json
from functools import partial

import cv2
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from wbcjax.errors import DataError
from wbcjax.report import figures, style

CLASSES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")


def read(path):
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return image


def has_color(image, color):
    """Whether some pixel has a colour given as #rrggbb."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(image.astype(int) - rgb).max(axis=-1) <= 3).any())


@pytest.fixture
def smear():
    image = np.full((48, 64, 3), 220, np.uint8)
    image[10:30, 20:40] = (120, 80, 160)
    return image


BOX = np.array([20, 10, 40, 30], np.float32)
NONE = np.zeros((0, 4), np.float32)


def every_figure(smear):
    """A call of each figure function that still lacks its path."""
    rng = np.random.default_rng(0)
    curve = figures.Curve("custom2", (0.0, 0.1), (0.9, 0.8), (0.85, 0.7), (0.95, 0.9), {0.1: 0.7})
    return {
        "steps": partial(figures.roi_steps, {"image": smear, "mask": smear[..., 1] < 100}, box=BOX, true_boxes=NONE),
        "detections": partial(figures.detections, [smear], [BOX], [BOX[None]], [1.0]),
        "noise_examples": partial(figures.noise_examples, np.stack([np.stack([smear, smear])]), (0.0, 0.1)),
        "misread": partial(figures.misread_originals, [smear], ["BloodImage_1"], ["monocyte"], ["lymphocyte"], [0.5]),
        "distribution": partial(figures.iou_distribution, {"faithful": rng.random(20)}, paper_mean={"faithful": 0.59}),
        "confusion": partial(figures.confusion_matrices, np.diag([3, 2]), ("a", "b"), title="two classes"),
        "curves": partial(figures.noise_curves, {"Whole images": [curve], "ROI crops": [curve]}),
    }


@pytest.mark.parametrize(
    "name", ["steps", "detections", "noise_examples", "misread", "distribution", "confusion", "curves"])
def test_every_figure_is_a_png_at_the_path_it_returns(name, smear, tmp_path):
    path = tmp_path / "new" / f"{name}.png"
    assert every_figure(smear)[name](path=path) == path
    assert read(path).std() > 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file stays


def test_the_same_figure_has_the_same_bytes_and_leaves_matplotlib_as_it_was(smear, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw = every_figure(smear)["curves"]
    assert draw(path=tmp_path / "a.png").read_bytes() == draw(path=tmp_path / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_a_failed_write_leaves_the_old_figure_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure, _ = style.new(1, 1, 1, 1)
    monkeypatch.setattr(figure, "savefig", lambda target, **_: (target.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        style.save(figure, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_true_boxes_are_blue_and_predicted_ones_orange_or_black(smear, tmp_path):
    shifted = BOX + 6
    both = read(figures.detections([smear], [shifted], [BOX[None]], [0.4], tmp_path / "a.png"))
    assert has_color(both, style.BLUE) and has_color(both, style.ORANGE)
    black = read(figures.detections([smear], [shifted], [BOX[None]], [0.4], tmp_path / "b.png", color="black"))
    assert has_color(black, style.BLACK) and not has_color(black, style.ORANGE)


def test_a_box_is_drawn_on_the_pixels_it_bounds():
    """Pixel i covers [i, i + 1] here and [i - 0.5, i + 0.5] in matplotlib."""
    _, axes = style.new(1, 1, 1, 1)
    style.outline(axes[0, 0], np.array([0, 0, 1, 2], np.float32), style.BLUE)
    assert [patch.get_bbox().extents.tolist() for patch in axes[0, 0].patches] == [[-0.5, -0.5, 0.5, 1.5]] * 2


def test_images_without_a_prediction_or_an_annotation_are_drawn(smear, tmp_path):
    images, predicted, true = [smear, smear[:40], smear], [None, BOX, None], [BOX[None], NONE, NONE]
    path = figures.detections(images, predicted, true, np.array([0, np.nan, np.nan]), tmp_path / "a.png", columns=2)
    assert read(path).shape[0] > 200


def test_detections_refuses_lists_that_differ_or_are_empty(tmp_path):
    with pytest.raises(ValueError, match=r"got \[0, 0, 0, 0\]"):
        figures.detections([], [], [], [], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"got \[1, 1, 1, 2\]"):
        figures.detections([np.zeros((4, 4, 3), np.uint8)], [None], [NONE], [0.0, 1.0], tmp_path / "a.png")


def test_shapes_are_checked(smear, tmp_path):
    with pytest.raises(TypeCheckError):
        figures.confusion_matrices(np.zeros((2, 3), np.int64), ("a", "b"), tmp_path / "a.png")
    with pytest.raises(TypeCheckError):
        figures.detections([smear.astype(np.float32)], [None], [NONE], [0.0], tmp_path / "a.png")


def test_a_step_that_changes_no_mask_is_left_out(smear, tmp_path):
    mask = smear[..., 1] < 100
    with_copy = figures.roi_steps({"image": smear, "mask": mask, "cleaned": mask.copy()}, tmp_path / "a.png")
    without = figures.roi_steps({"image": smear, "mask": mask}, tmp_path / "b.png")
    assert with_copy.read_bytes() == without.read_bytes()
    with pytest.raises(ValueError, match="at least one"):
        figures.roi_steps({}, tmp_path / "c.png")


def test_roi_steps_draws_what_the_colour_roi_gives(smear, tmp_path):
    from wbcjax.roi import color

    smear[10:30, 20:40] = (110, 90, 200)
    assert color.color_roi(smear) is not None
    path = figures.roi_steps(color.steps(smear), tmp_path / "a.png", box=color.color_roi(smear), true_boxes=BOX[None])
    assert has_color(read(path), style.ORANGE) and has_color(read(path), style.BLUE)


def test_degenerate_values_are_drawn(tmp_path):
    empty = {"no image": np.zeros(0), "none annotated": np.full(3, np.nan), "none found": np.zeros(3)}
    assert figures.iou_distribution(empty, tmp_path / "a.png").is_file()
    assert figures.confusion_matrices(np.zeros((4, 4), np.int64), CLASSES, tmp_path / "b.png").is_file()
    assert figures.misread_originals([], [], [], [], [], tmp_path / "c.png").is_file()
    with pytest.raises(ValueError, match="at least one"):
        figures.iou_distribution({}, tmp_path / "d.png")
    with pytest.raises(ValueError, match="at least one"):
        figures.noise_curves({"Whole images": []}, tmp_path / "d.png")
    with pytest.raises(ValueError, match="2 pictures for 1 levels"):
        figures.noise_examples(np.zeros((1, 2, 4, 4, 3), np.uint8), (0.1,), tmp_path / "d.png")


def write_lines(path, *records, tail=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def test_metrics_are_averaged_within_an_epoch(tmp_path):
    path = write_lines(
        tmp_path / "metrics.jsonl",
        {"step": 1, "epoch": 0.5, "loss": 3.0, "images_per_second": 9.0},
        {"step": 2, "epoch": 1.0, "loss": 1.0, "accuracy": 0.5},
        {"step": 2, "epoch": 1.0, "valid_loss": 2.0, "valid_accuracy": 0.25, "valid_balanced_accuracy": 0.1},
        {"step": 3, "epoch": 1.5, "loss": 0.5},
        {"step": 3, "note": "no epoch"},
        tail='{"step": 4, "epo',
    )
    metrics = {name: values.tolist() for name, values in figures.read_metrics(path).items()}
    assert metrics == {"loss": [[1, 2.0], [2, 0.5]], "accuracy": [[1, 0.5]], "valid_loss": [[1, 2.0]],
                       "valid_accuracy": [[1, 0.25]]}


def test_a_bad_metrics_file_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl: no such metrics file"):
        figures.read_metrics(tmp_path / "metrics.jsonl")
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "loss": 1}\nxx\n{"epoch": 2, "loss": 1}\n')
    with pytest.raises(DataError, match="line 2"):
        figures.read_metrics(path)


def test_training_curves_draw_runs_with_and_without_a_held_out_fold(tmp_path):
    held_out = write_lines(tmp_path / "a.jsonl", *({"epoch": e, "loss": 1 / e, "accuracy": 0.5} for e in (1, 2)),
                           {"epoch": 2, "valid_loss": 1.0, "valid_accuracy": 0.4})
    plain = write_lines(tmp_path / "b.jsonl", {"epoch": 1, "loss": 0.3})
    path = figures.training_curves({"custom1": held_out, "custom2": plain}, tmp_path / "c.png")
    assert has_color(read(path), style.SERIES[0]) and has_color(read(path), style.SERIES[1])


def test_results_alone_give_confusion_matrices_and_the_noise_curve(tmp_path):
    from wbcjax.evaluation.results import row
    from wbcjax.report import from_results, html

    common = {"model": "custom2", "input": "roi", "roi": "color", "split": "TEST"}
    rows = [row(**common, metric="confusion", true="monocyte", predicted="lymphocyte", value=3),
            row(**common, metric="accuracy", value=0.9, alpha=0),
            row(**common, metric="accuracy", value=0.8, alpha=0.05, paper=0.81, low=0.7, high=0.9)]
    results = [{"experiment": "fig12_noise", "rows": rows}]
    drawn = from_results.draw_results(results, tmp_path)
    assert [path.name for path in drawn] == ["confusion_0_custom2_color.png", "fig12_noise.png"]
    assert [entry["file"] for entry in html.read_index(tmp_path)] == [path.name for path in drawn]
    [(title, [curve])] = from_results.noise_panels([{**r, "experiment": "x"} for r in rows]).items()
    assert title == "ROI crops (Colour ROI)"
    assert curve == figures.Curve("Custom CNN 2", (0.0, 0.05), (0.9, 0.8), None, None, {0.05: 0.81})
    assert from_results.draw_results([], tmp_path) == []
