"""Write ``golden/detector.npz``: what torchvision's Mask R-CNN makes of random weights, stage by stage.

    python tests/parity/make_detector_golden.py

Needs torch and a torchvision with its C++ operators, which the test ``test_detector_parity.py`` does not. Weights are
too large to keep: both sides draw them, each tensor from its name and shape, so the file holds names, shapes and the
stages' outputs (of large ones, values at regular distances).
"""

import json
import zlib
from pathlib import Path

import numpy as np
from make_ops_golden import load_torchvision

GOLDEN = Path(__file__).parent / "golden" / "detector.npz"
CANVAS = (128, 160)
SIZES = ((128, 160), (117, 150))
CLASS_NAMES = ("wbc", "rbc", "platelets")
CANONICAL_SIZE = 64
"""Side of a box of pyramid level 4: a quarter of the usual, so that boxes of a small image are on all levels."""
RPN = {"pre_nms": 150, "post_nms": 60}
BOX = {"score_threshold": 0.4, "max_detections": 50}
TRUTH_SIDE = 32
"""True boxes are squares on whole pixels, of the grid of our masks: cropping masks to them is exact."""
TRUTH = (
    (((21, 34), 0), ((90, 70), 1), ((100, 8), 2)),  # ((x, y), label) of each image
    (((60, 52), 1), ((3, 80), 0)),
)
LOSSES = {
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}
"""Our names of torchvision's losses."""
GOLDEN_SEED, LIVE_SEED = 2, 7
TRUNKS = ("resnet18", "resnet50", "vgg16", "vgg16_bn")
KEPT, KEPT_OF_GRADIENT = 4000, 200
"""So many values of a large array are kept."""
GAINS = {
    "rpn.head.cls_logits": 2.0,
    "rpn.head.bbox_pred": 0.4,
    "box_predictor.cls_score": 3.0,
    "box_predictor.bbox_pred": 2.0,
    "mask_fcn_logits": 2.0,
    "fpn.": 0.4,
}
"""Of the weights of some layers, so that scores spread and boxes move; of all others the square root of 2."""


def draw(key, shape, seed):
    """A tensor of a torchvision state dict, random but always the same for a name, shape and seed."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    uniform = np.random.RandomState(zlib.crc32(f"{seed} {key}".encode())).uniform(-1, 1, shape)  # a frozen stream
    if key.endswith("running_var"):
        values = 1 + 0.4 * uniform
    elif key.endswith(("running_mean", "bias")):
        values = 0.2 * uniform
    elif len(shape) == 1:  # scale of a batch norm: the sum of a residual block must not grow from block to block
        values = (1 + 0.4 * uniform) * (0.3 if "bn3" in key else 1.0)
    else:
        gain = next((gain for part, gain in GAINS.items() if part in key), 2**0.5)
        fan_in = shape[0] if "conv5_mask" in key else np.prod(shape[1:])
        values = uniform * 3**0.5 * gain / fan_in**0.5
    return values.astype(np.float32)


def weights(shapes, seed):
    """A whole state dict for the given {name: shape}."""
    return {key: draw(key, shape, seed) for key, shape in shapes.items()}


def images(seed):
    """Images in [0, 1] on the canvas: random blocks of several sizes, zeros beyond each image's size."""
    rng = np.random.RandomState(seed)
    canvas = np.zeros((len(SIZES), *CANVAS, 3), np.float32)
    for image, (height, width) in zip(canvas, SIZES, strict=True):
        blocks = [rng.uniform(size=(CANVAS[0] // side, CANVAS[1] // side, 3)) for side in (4, 16, 32)]
        whole = np.mean([np.kron(b, np.ones((CANVAS[0] // len(b),) * 2 + (1,))) for b in blocks], axis=0)
        image[:height, :width] = whole[:height, :width]
    return canvas


def truth():
    """(boxes, labels, masks) of each image; the masks are those of the whole canvas."""
    y, x = np.mgrid[: CANVAS[0], : CANVAS[1]] + 0.5
    result = []
    for objects in TRUTH:
        corners = np.array([corner for corner, _ in objects], np.float32)
        centres = corners + TRUTH_SIDE / 2
        masks = [np.hypot(x - cx, (y - cy) * 1.3) < 0.4 * TRUTH_SIDE for cx, cy in centres]
        result.append((np.concatenate([corners, corners + TRUTH_SIDE], axis=1),
                       np.array([label for _, label in objects]), np.stack(masks)))
    return result


def thin(values, kept=KEPT):
    """Values at regular distances in the flattened array, at most about ``kept`` of them."""
    flat = np.asarray(values).ravel()
    return flat[:: -(-flat.size // kept)]


class Reference:
    """torchvision's model with the weights of a seed, and the batch of images in its form; in float64.

    What it computes then is right to the last bit of a float32, and all that differs is our rounding.
    """

    def __init__(self, torchvision, seed, disturbance=0.0):
        import torch
        from torchvision.models.detection.image_list import ImageList
        from torchvision.ops import MultiScaleRoIAlign

        pools = [MultiScaleRoIAlign(["0", "1", "2", "3"], side, 2, canonical_scale=CANONICAL_SIZE) for side in (7, 14)]
        everything = {f"{stage}_{option}": value for stage in ("rpn", "box")
                      for option, value in (("batch_size_per_image", 10**5), ("positive_fraction", 1.0))}
        self.model = torchvision.models.detection.maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=len(CLASS_NAMES) + 1,
            rpn_pre_nms_top_n_test=RPN["pre_nms"], rpn_post_nms_top_n_test=RPN["post_nms"],
            rpn_pre_nms_top_n_train=RPN["pre_nms"], rpn_post_nms_top_n_train=RPN["post_nms"],
            box_score_thresh=BOX["score_threshold"], box_detections_per_img=BOX["max_detections"],
            box_roi_pool=pools[0], mask_roi_pool=pools[1], **everything,
        )
        self.shapes = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(to_torch(weights(self.shapes, seed)))
        self.model.double().eval()
        # Normalised first, then padded with zeros, as its transform does.
        noise = np.random.RandomState(seed).normal(size=(len(SIZES), *CANVAS, 3)) * disturbance
        parts = [torch.from_numpy(image[:h, :w]).permute(2, 0, 1)
                 for image, (h, w) in zip(images(seed) + noise, SIZES, strict=True)]
        batch = self.model.transform.batch_images([self.model.transform.normalize(part) for part in parts])
        self.images = ImageList(batch, list(SIZES))

    def stages(self):
        """Outputs of every stage, channels last, boxes of both images padded with zeros to equal numbers."""
        import torch
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        model, sizes = self.model, self.images.image_sizes
        with torch.no_grad():
            maps = model.backbone.body(self.images.tensors)
            pyramid = model.backbone.fpn(maps)
            levels = list(pyramid.values())
            logits, deltas = model.rpn.head(levels)
            anchors = model.rpn.anchor_generator(self.images, levels)
            counts = [level[0].numel() for level in logits]
            logits, deltas = concat_box_prediction_layers(logits, deltas)
            decoded = model.rpn.box_coder.decode(deltas, anchors).view(len(SIZES), -1, 4)
            proposals, scores = model.rpn.filter_proposals(decoded, logits, sizes, counts)

            heads = model.roi_heads
            pooled = heads.box_roi_pool(pyramid, proposals, sizes)
            classes, boxes = heads.box_predictor(heads.box_head(pooled))
            found, _ = heads(pyramid, proposals, sizes)
            pooled_masks = heads.mask_roi_pool(pyramid, [one["boxes"] for one in found], sizes)
            masks = heads.mask_predictor(heads.mask_head(pooled_masks))

        def field(name):
            return pad([one[name] for one in found], BOX["max_detections"])

        split = [len(boxes) for boxes in proposals]
        results = {
            **{f"c{level}": nhwc(x) for level, x in enumerate(maps.values(), 2)},
            **{f"p{level}": nhwc(x) for level, x in enumerate(levels, 2)},
            "rpn_logits": logits.view(len(SIZES), -1),
            "rpn_deltas": deltas.view(len(SIZES), -1, 4),
            "proposals": pad(proposals, RPN["post_nms"]),
            "proposal_scores": pad(scores, RPN["post_nms"]),
            "box_logits": pad(classes.split(split), RPN["post_nms"]),
            "box_deltas": pad(boxes.view(len(boxes), -1, 4).split(split), RPN["post_nms"]),
            "boxes": field("boxes"),
            "scores": field("scores"),
            "labels": field("labels"),  # 0 where there is none
            "mask_logits": pad(nhwc(masks).split([len(one["boxes"]) for one in found]), BOX["max_detections"]),
            "masks": field("masks")[:, :, 0],
        }
        return {name: value.numpy().astype("i4" if name == "labels" else "f4") for name, value in results.items()}

    def training(self):
        """The five losses over all anchors and all proposals, and the gradients of every weight of their sum.

        The mask targets are ours: torchvision samples the true mask half a pixel off (``aligned=False``).
        """
        import torch
        from torchvision.models.detection import roi_heads

        model = self.model
        model.rpn.train()
        model.roi_heads.train()  # the backbone's batch norms stay with their statistics
        targets = [{"boxes": torch.from_numpy(boxes).double(), "labels": torch.from_numpy(labels) + 1,
                    "masks": torch.from_numpy(masks).double()} for boxes, labels, masks in truth()]
        theirs, roi_heads.project_masks_on_boxes = roi_heads.project_masks_on_boxes, aligned_targets
        try:
            features = model.backbone(self.images.tensors)
            proposals, rpn_losses = model.rpn(self.images, features, targets)
            _, head_losses = model.roi_heads(features, proposals, self.images.image_sizes, targets)
        finally:
            roi_heads.project_masks_on_boxes = theirs
        losses = {**rpn_losses, **head_losses}
        sum(losses.values()).backward()
        gradients = {name: parameter.grad.numpy().astype("f4") for name, parameter in model.named_parameters()
                     if parameter.grad is not None}
        model.eval()
        return {LOSSES[name]: value.item() for name, value in losses.items()}, gradients


def aligned_targets(masks, boxes, matched, size):
    """What ``wbcjax.ops.masks.mask_targets`` computes, in the place of ``project_masks_on_boxes``."""
    import torch
    from torchvision.ops import roi_align

    rois = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    return roi_align(masks[:, None].to(boxes), rois, (size, size), 1.0, sampling_ratio=4, aligned=True)[:, 0]


def to_torch(state):
    """A state dict of tensors."""
    import torch

    return {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}


def nhwc(x):
    """Channels last."""
    return x.permute(0, 2, 3, 1)


def pad(parts, length):
    """One tensor of parts of different lengths, filled up with zeros."""
    import torch

    return torch.stack([torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])]) for part in parts])


def trunk_maps(torchvision, name, seed):
    """The names and shapes of a classification network, and the maps of its trunk, finest first."""
    import torch

    model = torchvision.models.get_model(name, weights=None).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(to_torch(weights(shapes, seed)))
    x = torch.from_numpy(trunk_image(seed)).permute(0, 3, 1, 2)
    maps = []
    with torch.no_grad():
        if name.startswith("vgg"):
            for layer in model.features:
                if isinstance(layer, torch.nn.MaxPool2d):
                    maps.append(x)
                x = layer(x)
            maps.append(x)
        else:
            x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
            for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
                x = stage(x)
                maps.append(x)
    return shapes, [nhwc(x).numpy() for x in maps]


def trunk_image(seed):
    """A preprocessed batch."""
    return np.random.RandomState(seed).normal(size=(1, 64, 96, 3)).astype(np.float32)


def choices_stand(reference, disturbed):
    """Whether the same boxes are chosen, in the same order, from images that differ by ten times the rounding.

    Thresholds, ranks and overlaps would otherwise turn a difference in the last bits into another box.
    """
    same = [reference[name].shape == disturbed[name].shape for name in ("proposals", "boxes", "labels")]
    return all(same) and np.array_equal(reference["labels"], disturbed["labels"]) and all(
        np.abs(reference[name] - disturbed[name]).max() < 0.1 for name in ("proposals", "boxes"))


def main():
    torchvision = load_torchvision()
    if torchvision is None or not torchvision.extension._has_ops():
        raise SystemExit("torchvision with its C++ operators is needed: pip install torch torchvision")
    for seed in (GOLDEN_SEED, LIVE_SEED):
        reference = Reference(torchvision, seed)
        stages = reference.stages()
        if not choices_stand(stages, Reference(torchvision, seed, 1e-5).stages()):
            raise SystemExit(f"seed {seed} leaves a choice of boxes to rounding; take another")
        print(f"seed {seed}: detections of each label", np.bincount(stages["labels"].ravel()))
        if seed == GOLDEN_SEED:
            losses, gradients = reference.training()
            shapes = {"detector": reference.shapes}
            outputs = {f"stage_{name}": thin(values) for name, values in stages.items()}
            outputs |= {f"loss_{name}": value for name, value in losses.items()}
            outputs |= {f"gradient_{name}": thin(values, KEPT_OF_GRADIENT) for name, values in gradients.items()}
    for name in TRUNKS:
        shapes[name], maps = trunk_maps(torchvision, name, GOLDEN_SEED)
        outputs |= {f"trunk_{name}_{i}": thin(values) for i, values in enumerate(maps)}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, torchvision=torchvision.__version__, shapes=json.dumps(shapes), **outputs)
    print(f"wrote {GOLDEN}: {GOLDEN.stat().st_size / 1e3:.0f} kB, losses {losses}")


if __name__ == "__main__":
    main()
