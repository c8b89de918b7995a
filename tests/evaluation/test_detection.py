"""Average precision against a plain implementation, and the statistics of white cells by hand."""

from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import mask as rle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wbcjax.data.sets import DetectionSet
from wbcjax.errors import DataError
from wbcjax.evaluation.detection import (
    ImageDetections,
    _median,
    cell_iou,
    coco_metrics,
    mask_iou,
    paired_mask_iou,
    wbc_statistics,
)
from wbcjax.evaluation.iou import iou_statistics
from wbcjax.evaluation.results import row
from wbcjax.ops.boxes import pairwise_iou

SIZE = (40, 50)
NONE = np.zeros((0, 4), np.float32)


def boxes(*corners):
    return np.array(corners, np.float32).reshape(-1, 4)


def filled(b, size=SIZE):
    """The mask of each whole-pixel box."""
    masks = np.zeros((len(b), *size), bool)
    for mask, (left, top, right, bottom) in zip(masks, b.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    return masks


def image(b, scores, labels=None, masks=True):
    labels = [0] * len(b) if labels is None else labels
    return ImageDetections(b, np.array(scores, np.float32), np.array(labels, np.int32), filled(b) if masks else None)


def truth(*per_image, names=("wbc",), masks=True):
    """A set from (boxes, labels) of each image."""
    paths = tuple(Path(f"smear_{i}.png") for i in range(len(per_image)))
    return DetectionSet(paths, tuple(b for b, _ in per_image), tuple(np.array(k, np.int32) for _, k in per_image),
                        names, (SIZE,) * len(paths), tuple(filled(b) for b, _ in per_image) if masks else None)


CELL = [(boxes((0, 0, 9, 9)), [0])]


def random_set(seed, images=6, classes=2):
    """Whole-pixel boxes, and detections that are near some of them; every score differs."""
    rng = np.random.default_rng(seed)
    true, found = [], []
    scores = rng.permutation(np.linspace(0.01, 0.99, images * 12).astype(np.float32))
    for number in range(images):
        corner = rng.integers(0, 25, (rng.integers(0, 5), 2))
        b = np.hstack([corner, corner + rng.integers(4, 15, corner.shape)]).astype(np.float32)
        labels = rng.integers(0, classes, len(b))
        cells = rng.integers(0, len(b), rng.integers(0, 8) if len(b) else 0)
        near = np.clip(b[cells] + rng.integers(-2, 3, (len(cells), 4)), 0, [50, 40, 50, 40])
        near = np.vstack([near, [1, 1, 9, 9]]).astype(np.float32)
        found_labels = np.where(rng.random(len(near)) < 0.7, [*labels[cells], 0], rng.integers(0, classes, len(near)))
        true.append((b, labels))
        found.append(image(near, scores[number * 12 :][: len(near)], found_labels))
    return found, true


def plain_average_precision(found, true, label, threshold, overlaps):
    """COCO's definition, one detection at a time; every score differs."""
    ranked = sorted(((s, n, i) for n, f in enumerate(found) for i, s in enumerate(f.scores) if f.labels[i] == label),
                    reverse=True)
    cells = sum(int((labels == label).sum()) for _, labels in true)
    taken, hits = set(), []
    for _, n, i in ranked:
        free = [j for j, k in enumerate(true[n][1]) if k == label and (n, j) not in taken]
        best = max(free, key=lambda j: overlaps[n][i, j], default=None)
        hit = best is not None and overlaps[n][i, best] >= threshold
        hits.append(hit)
        if hit:
            taken.add((n, best))
    right = np.cumsum(hits)
    recall, precision = right / cells, right / np.arange(1, len(hits) + 1)
    levels = [precision[recall >= level - 1e-12] for level in np.linspace(0, 1, 101)]
    return np.mean([p.max(initial=0) for p in levels])


def plain_mask_overlaps(f, b):
    return np.array([[(p & q).sum() / (p | q).sum() for q in filled(b)] for p in f.masks]).reshape(len(f), len(b))


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_a_plain_implementation(seed, kind):
    found, true = random_set(seed)
    metrics = coco_metrics(found, truth(*true, names=("wbc", "rbc")), class_names=("wbc", "rbc"), masks=True)
    overlaps = [pairwise_iou(f.boxes, b) if kind == "box" else plain_mask_overlaps(f, b)
                for f, (b, _) in zip(found, true, strict=True)]
    thresholds = np.linspace(0.5, 0.95, 10)
    for label, name in enumerate(("wbc", "rbc")):
        plain = [plain_average_precision(found, true, label, t, overlaps) for t in thresholds]
        assert 0.01 < np.mean(plain) < 0.99
        assert metrics[f"{kind}/ap/{name}"] == pytest.approx(np.mean(plain), abs=1e-6)
        assert metrics[f"{kind}/ap50/{name}"] == pytest.approx(plain[0], abs=1e-6)
        assert metrics[f"{kind}/ap75/{name}"] == pytest.approx(plain[5], abs=1e-6)
    for metric in ("ap", "ap50", "ap75"):
        of_classes = [metrics[f"{kind}/{metric}/{name}"] for name in ("wbc", "rbc")]
        assert metrics[f"{kind}/{metric}"] == pytest.approx(np.mean(of_classes))


def test_average_precision_by_hand(capsys):
    """Two cells; the best detection is right, the second false, the third overlaps the other cell by 0.6.

    At IoU 0.5 and 0.6: precision 1 up to recall 0.5 (51 levels of 101), then 2/3. Above: 1 up to recall 0.5 alone."""
    true = truth((boxes((0, 0, 10, 10)), [0]), (boxes((20, 20, 30, 30)), [0]), masks=False)
    found = [image(boxes((0, 0, 10, 10), (30, 30, 40, 40)), [0.9, 0.8], masks=False),
             image(boxes((20, 20, 30, 26)), [0.7], masks=False)]
    metrics = coco_metrics(found, true, class_names=("wbc",), masks=False)
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    expected = {"ap": (3 * low + 7 * high) / 10, "ap50": low, "ap75": high}
    assert metrics == pytest.approx({f"box/{m}{suffix}": v for m, v in expected.items() for suffix in ("", "/wbc")})
    assert capsys.readouterr() == ("", "")


def test_classes_go_by_name_and_those_without_a_true_box_are_left_out():
    true = truth((boxes((0, 0, 9, 9), (20, 20, 29, 29)), [0, 1]), names=("rbc", "wbc", "platelets"), masks=False)
    found = [image(boxes((20, 20, 29, 29), (0, 0, 9, 9), (5, 5, 9, 9)), [0.9, 0.8, 0.7], [0, 2, 1], masks=False)]
    metrics = coco_metrics(found, true, class_names=("wbc", "platelets", "basophil"), masks=False)
    assert set(metrics) == {"box/ap", "box/ap50", "box/ap75", "box/ap/wbc", "box/ap50/wbc", "box/ap75/wbc"}
    assert set(metrics.values()) == {1.0}
    with pytest.raises(DataError, match="no image has a true box of platelets among those of rbc, wbc, platelets"):
        coco_metrics(found, true, class_names=("platelets",), masks=False)


def test_masks_are_judged_by_themselves():
    """The same box, a mask of half of it: IoU 0.5."""
    true = truth((boxes((0, 0, 10, 10)), [0]))
    half = ImageDetections(boxes((0, 0, 10, 10)), np.ones(1, np.float32), np.zeros(1, np.int32),
                           filled(boxes((0, 0, 10, 5))))
    metrics = coco_metrics([half], true, class_names=("wbc",), masks=True)
    assert [metrics[name] for name in ("box/ap", "mask/ap", "mask/ap50", "mask/ap75")] == [1, 0.1, 1, 0]


def test_nothing_found_is_an_average_precision_of_zero():
    metrics = coco_metrics([image(NONE, [])] * 2, truth(*CELL, (NONE, [])), class_names=("wbc",), masks=True)
    assert set(metrics.values()) == {0.0}


def test_missing_masks_and_images_are_named():
    true = truth(*CELL, (NONE, []))
    bare = image(NONE, [], masks=False)
    with pytest.raises(DataError, match="image smear_1 has detections without masks"):
        coco_metrics([image(NONE, []), bare], true, class_names=("wbc",), masks=True)
    with pytest.raises(DataError, match="the annotations have no masks"):
        coco_metrics([image(NONE, [])], truth(*CELL, masks=False), class_names=("wbc",), masks=True)
    with pytest.raises(DataError, match="detections in 1 images for 2 images"):
        coco_metrics([bare], true, class_names=("wbc",), masks=False)


FOUND = [
    image(boxes((0, 0, 10, 5), (0, 0, 10, 10)), [0.9, 0.6]),  # the better box has the lower score
    image(boxes((0, 0, 10, 10), (0, 0, 10, 9), (20, 20, 30, 30)), [0.8, 0.7, 0.4]),  # twice the same cell
    image(NONE, []),
    image(boxes((5, 5, 9, 9)), [0.95]),  # no true cell
    image(boxes((0, 0, 10, 4)), [0.55]),  # overlaps too little
]
TRUE = [boxes((0, 0, 10, 10)), boxes((0, 0, 10, 10), (20, 20, 30, 30)), boxes((1, 1, 5, 5)), NONE,
        boxes((0, 0, 10, 10))]


def test_white_cells_by_hand():
    statistics = wbc_statistics(FOUND, TRUE)
    of_image, cell = ({name: i.value for name, i in group.items()} for group in statistics.values())
    assert of_image == pytest.approx({
        "mean_iou": np.mean([0.5, 1, 0, 0.4]), "median_iou": 0.45, "min_iou": 0, "max_iou": 1,
        "std_iou": np.std([0.5, 1, 0, 0.4]), "missed": 1, "images": 4,
    })
    values = [1, 1, 0, 0, 0.4]
    assert np.concatenate(cell_iou(FOUND, TRUE)) == pytest.approx(values)
    assert cell == pytest.approx({
        "mean_iou": np.mean(values), "median_iou": 0.4, "min_iou": 0, "max_iou": 1, "std_iou": np.std(values),
        # Image 0: both boxes lie over the only cell, the first takes it. 1: the second one of the same cell.
        "missed": 3, "false_positives": 1 + 1 + 0 + 1 + 1, "cells": 5,
    })
    assert np.concatenate(cell_iou(FOUND, TRUE, score_threshold=0.4)) == pytest.approx([1, 1, 1, 0, 0.4])


def test_the_figures_are_rows_of_a_results_file():
    for unit, group in wbc_statistics(FOUND, TRUE).items():
        for metric, interval in group.items():
            made = row(model="mask_rcnn_compact", input="whole", split="test", unit=unit, metric=metric,
                       **interval._asdict())
            assert ("low" in made) == (metric not in ("min_iou", "max_iou", "std_iou", "images", "cells"))
    for metric, interval in mask_iou(FOUND, TRUE, [filled(b) for b in TRUE]).items():
        row(model="mask_rcnn_compact", input="whole", split="test", metric=metric, **interval._asdict())
    metrics = coco_metrics(FOUND, truth(*((b, [0] * len(b)) for b in TRUE)), class_names=("wbc",), masks=True)
    for name, value in metrics.items():
        kind, metric, *of_class = name.split("/")
        row(model="mask_rcnn_compact", input="whole", split="test", kind=kind, metric=metric, value=value,
            class_name=of_class[0] if of_class else None)


def test_mask_iou_by_hand():
    """The mask comes from the detection whose box fits best, though another mask would fit better."""
    found = ImageDetections(boxes((0, 0, 10, 10), (0, 0, 10, 5), (30, 30, 40, 40)), np.array([0.9, 0.8, 0.1]),
                            np.zeros(3, np.int32), filled(boxes((0, 0, 10, 4), (0, 0, 10, 10), (30, 30, 40, 40))))
    true = boxes((0, 0, 10, 10), (30, 30, 40, 40), (20, 0, 30, 10))
    result = mask_iou([found, image(NONE, [])], [true, true[:1]], [filled(true), filled(true[:1])])
    assert result["mask_iou"].value == pytest.approx(0.1)
    assert result["median_mask_iou"].value == 0
    lower = mask_iou([found], [true], [filled(true)], score_threshold=0.1)
    assert lower["mask_iou"].value == pytest.approx((0.4 + 1 + 0) / 3)
    assert lower["median_mask_iou"].value == pytest.approx(0.4)
    with pytest.raises(DataError, match="image 0 has detections without masks"):
        mask_iou([image(true, [1, 1, 1], masks=False)], [true], [filled(true)])


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_overlaps_agree_with_those_of_coco(seed, n, m):
    rng = np.random.default_rng(seed)

    def some(count):
        corner = rng.uniform(0, 30, (count, 2))
        return np.hstack([corner, corner + rng.uniform(0.5, 20, (count, 2))]).astype(np.float32)

    a, b = some(n), some(m)
    as_coco = lambda x: np.hstack([x[:, :2], x[:, 2:] - x[:, :2]]).astype(np.float64)  # noqa: E731
    np.testing.assert_allclose(pairwise_iou(a, b), rle.iou(as_coco(a), as_coco(b), [0] * m), atol=1e-5)
    p, q = (rng.random((n, *SIZE)) < rng.uniform(0.1, 0.9, (n, 1, 1)) for _ in range(2))
    encoded = [rle.encode(np.asfortranarray(x.transpose(1, 2, 0).astype(np.uint8))) for x in (p, q)]
    np.testing.assert_allclose(paired_mask_iou(p, q), np.diag(rle.iou(*encoded, [0] * n)), atol=1e-9)


def test_empty_masks_overlap_nothing():
    assert paired_mask_iou(np.zeros((1, 3, 4), bool), np.zeros((1, 3, 4), bool)).tolist() == [0.0]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9]), max_size=3), min_size=1, max_size=6))
def test_cell_statistics_are_those_of_all_cells(per_image):
    """A cell with IoU x is met by a box of height 10 x."""
    true = [boxes(*[(10 * j, 0, 10 * j + 10, 10) for j in range(len(v))]) for v in per_image]
    found = [image(boxes(*[(10 * j, 0, 10 * j + 10, 10 * x) for j, x in enumerate(v) if x]),
                   [0.9] * sum(x > 0 for x in v)) for v in per_image]
    flat = np.concatenate([np.array(v, float) for v in per_image])
    if not flat.size:
        with pytest.raises(DataError, match="no image of the set has a true box"):
            wbc_statistics(found, true)
        return
    cell = wbc_statistics(found, true)["cell"]
    for name, value in iou_statistics(flat).items():
        assert cell[f"{name}_iou"].value == pytest.approx(value, abs=1e-6)
    assert cell["missed"].value == (flat < 0.5).sum()
    assert cell["false_positives"].value == (flat == 0.2).sum()


def test_intervals_are_over_images():
    """Forty images with one cell each, half of them found: as for a share of 40 draws. Two hundred cells in two images
    that are wholly right or wholly wrong: nothing is known."""
    cell = boxes((0, 0, 10, 10))
    found = [image(cell, [0.9]), image(NONE, [])] * 20
    interval = wbc_statistics(found, [cell] * 40)["cell"]["mean_iou"]
    low, high = (stats.binom.ppf(q, 40, 0.5) / 40 for q in (0.025, 0.975))
    assert (interval.low, interval.value, interval.high) == pytest.approx((low, 0.5, high), abs=0.03)
    many = np.repeat(cell, 100, axis=0)
    group = wbc_statistics([image(many, [0.9] * 100), image(NONE, [])], [many, many])["cell"]
    for name in ("mean_iou", "median_iou"):
        assert (group[name].low, group[name].value, group[name].high) == (0, 0.5, 1)
    assert (group["missed"].low, group["missed"].value, group["missed"].high) == (0, 100, 200)


def test_median_of_samples():
    rng = np.random.default_rng(0)
    ordered = np.sort(rng.random(7))
    counts = rng.integers(0, 4, (20, 7)) + np.eye(7, dtype=int)[rng.integers(0, 7, 20)]
    expected = [np.median(np.repeat(ordered, row)) for row in counts]
    np.testing.assert_allclose(_median(ordered, counts.astype(float)), expected)
