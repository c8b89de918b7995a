"""Write ``golden/ops.npz``: random inputs and what torchvision makes of them, for ``test_ops_parity.py``.

    python tests/parity/make_ops_golden.py

Needs torch and torchvision, which the tests themselves do not. A torchvision built for another torch (CUDA wheels
beside a CPU torch) will do: its Python code is the reference then, and ``nms``, which exists in C++ only, is left out.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "ops.npz"
IMAGE = (96, 128)
STRIDES = (4, 8, 16)
CANONICAL = 32
"""Box size that belongs to pyramid level 4; small, so that small boxes spread over the levels."""
SIZES, RATIOS = ((8, 12), (16, 24), (33, 50)), (0.5, 1.0, 2.0)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
IOU_THRESHOLD = 0.4
MASK_BINS = 14


def load_torchvision():
    """torchvision, also where its C++ part does not load; None where it or torch is not installed."""
    if not importlib.util.find_spec("torch") or not (spec := importlib.util.find_spec("torchvision")):
        return None
    import torch

    try:
        for extension in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(extension)
    except OSError:
        # Its import wants to extend operators that the C++ part would have declared.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        load_torchvision.library = library  # the declarations go when it does
    import torchvision

    return torchvision


def random_boxes(rng, n, size):
    """Boxes in the image with sides from 3 pixels to most of it."""
    limit = np.array([size[1], size[0]])
    sides = np.exp(rng.uniform(np.log(3), np.log(0.6 * limit), (n, 2)))
    corner = rng.uniform(0, limit - sides)
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def inputs(seed):
    """Everything that goes in, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    truth, boxes = random_boxes(rng, 5, IMAGE), random_boxes(rng, 40, IMAGE)
    boxes[:3] = truth[:3] + rng.normal(size=(3, 4))  # some that match
    # To pool from, some of them reach over the left and upper border. At the others, a narrow box that is widened to a
    # feature pixel can have samples beyond the map, which are 0 in torchvision's C++ but not in its Python version;
    # so can one more than a feature pixel outside (half a feature pixel where boxes are aligned).
    roi_boxes = np.clip(boxes * 1.1 - 3, -1.5, [IMAGE[1] - 16, IMAGE[0] - 16] * 2).astype(np.float32)
    y, x = np.mgrid[: IMAGE[0], : IMAGE[1]] + 0.5
    mask_boxes = np.array([[8, 10, 40, 42], [50, 20, 82, 52]], np.float32)  # 32 × 32: cropping them is exact
    masks = np.stack([np.hypot(x - 30, y - 22) < 17, np.hypot(x - 62, (y - 40) * 1.4) < 20])
    return {
        "truth": truth,
        "boxes": boxes,
        "roi_boxes": roi_boxes[(roi_boxes[:, :2] + 1 < roi_boxes[:, 2:]).all(1)],
        "deltas": (rng.normal(size=(40, 4)) * np.array(WEIGHTS) * 0.6).astype(np.float32),
        "scores": rng.permutation(40).astype(np.float32) / 40,
        "classes": rng.integers(0, 3, 40).astype(np.int32),
        **{f"features{s}": rng.normal(size=(IMAGE[0] // s, IMAGE[1] // s, 3)).astype(np.float32) for s in STRIDES},
        "masks": masks,
        "mask_boxes": mask_boxes,
        "mask_proposals": np.array([[5.5, 12, 44, 39.25], [54, 16.5, 80, 57]], np.float32),
        "probabilities": rng.random((6, 28, 28)).astype(np.float16).astype(np.float32),
        # Some reach beyond the image; torchvision fails for one that lies outside altogether.
        "paste_boxes": np.concatenate([
            random_boxes(rng, 4, (32, 40)), np.array([[-3.4, -2.2, 15, 12], [30, 20.5, 44, 35]], np.float32),
        ]),
    }


def outputs(given, torchvision):
    """What torchvision makes of the inputs; channels last, as NumPy arrays."""
    import torch
    from torchvision.models.detection import _utils as det_utils
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.roi_heads import paste_masks_in_image
    from torchvision.ops import boxes as box_ops
    from torchvision.ops.poolers import LevelMapper

    t = {name: torch.from_numpy(value) for name, value in given.items()}
    truth, boxes = t["truth"], t["boxes"]
    coder = det_utils.BoxCoder(WEIGHTS)
    iou = box_ops.box_iou(truth, boxes)
    pyramid = [t[f"features{s}"].permute(2, 0, 1)[None] for s in STRIDES]
    images = ImageList(torch.zeros(1, 3, *IMAGE), [IMAGE])
    anchors = AnchorGenerator(SIZES, (RATIOS,) * len(SIZES))(images, pyramid)[0]
    roi_boxes = t["roi_boxes"]
    levels = LevelMapper(2, 4, canonical_scale=CANONICAL)([roi_boxes])

    def pool(features, boxes, *args):
        # The Python version even where the C++ is there: it is the same in every build.
        function = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__
        rois = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
        return function(features, rois, *args).permute(0, 2, 3, 1)

    per_level = torch.stack([pool(f, roi_boxes, 1 / s, 3, 3, 2, False) for f, s in zip(pyramid, STRIDES, strict=True)])
    cut = torch.zeros_like(t["masks"], dtype=torch.float32)
    for i, (x1, y1, x2, y2) in enumerate(given["mask_boxes"].astype(int)):
        cut[i, y1:y2, x1:x2] = t["masks"][i, y1:y2, x1:x2]
    results = {
        "iou": iou,
        "giou": box_ops.generalized_box_iou(truth, boxes),
        "clipped": box_ops.clip_boxes_to_image(boxes * 1.5 - 20, IMAGE),
        "large": torch.isin(torch.arange(40), box_ops.remove_small_boxes(boxes, 12.0)),
        "encoded": coder.encode_single(boxes, boxes.roll(1, 0)),
        "decoded": coder.decode_single(t["deltas"], boxes),
        "anchors": anchors,
        "matched_rpn": det_utils.Matcher(0.7, 0.3, allow_low_quality_matches=True)(iou),
        "matched_head": det_utils.Matcher(0.5, 0.5)(iou),
        "levels": levels,
        "roi_legacy": pool(pyramid[0], roi_boxes, 1 / STRIDES[0], 3, 5, 2, False),
        "roi_aligned": pool(pyramid[0], roi_boxes, 1 / STRIDES[0], 4, 3, 3, True),
        "roi_pyramid": per_level[levels, torch.arange(len(roi_boxes))],
        "targets": torch.stack([
            pool(m[None, None], p[None], 1.0, MASK_BINS, MASK_BINS, 4, True)[0, :, :, 0]
            for m, p in zip(cut, t["mask_proposals"], strict=True)
        ]),
        "pasted": paste_masks_in_image(t["probabilities"][:, None], t["paste_boxes"], (32, 40))[:, 0],
    }
    if torchvision.extension._has_ops():
        kept = torchvision.ops.nms(boxes, t["scores"], IOU_THRESHOLD)
        kept_by_class = torchvision.ops.batched_nms(boxes, t["scores"], t["classes"].long(), IOU_THRESHOLD)
        results["nms"] = torch.isin(torch.arange(40), kept)
        results["nms_by_class"] = torch.isin(torch.arange(40), kept_by_class)
    return {name: value.numpy() for name, value in results.items()}


def main():
    torchvision = load_torchvision()
    if torchvision is None:
        raise SystemExit("torch and torchvision are needed to write the golden file: pip install torch torchvision")
    given = inputs(seed=0)
    expected = outputs(given, torchvision)
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        GOLDEN,
        torchvision=torchvision.__version__,
        **{f"in_{name}": value for name, value in given.items()},
        **{f"out_{name}": value for name, value in expected.items()},
    )
    print(f"wrote {GOLDEN}: {GOLDEN.stat().st_size / 1e3:.0f} kB, {', '.join(expected)}")


if __name__ == "__main__":
    main()
