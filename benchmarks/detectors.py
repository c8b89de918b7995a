"""Mask R-CNN here and in torchvision, with the same settings, and the run that both benchmarks of detectors share."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from common import Case, arguments, interleave, peak_memory, report
from flax import nnx

from wbcjax.config import DetectorModelConfig
from wbcjax.models import parameter_count
from wbcjax.models.mask_rcnn import MaskRCNN, build_detector
from wbcjax.pipeline.detector_presets import compact
from wbcjax.pretrained.torchvision import load_torchvision_mask_rcnn
from wbcjax.training.allocator import keep_freed_memory
from wbcjax.typing import Size
from wbcjax.typing_detection import Instances

SAME = ("torchvision contiguous", "torchvision channels_last", "wbcjax resnet50")
"""The same work; torchvision in both layouts of tensors in memory."""
COMPACT = "wbcjax compact"
"""The small detector, at its own canvas."""
CELLS = 2
"""In each image, as in a smear; an untrained network reports as many if it may report no more."""

Make = Callable[[str, int, Size], Callable[[], Any]]
"""(candidate, images, canvas) -> one call of it."""


def our_model(name: str, canvas: Size) -> MaskRCNN:
    """Ours, with random weights."""
    config = compact().model
    if name != COMPACT:
        config = DetectorModelConfig(backbone="resnet50", norm="frozen", preprocessing="imagenet")
    return build_detector(replace(config, canvas=canvas, box=replace(config.box, max_detections=CELLS)))


def torch_model(name: str, canvas: Size):
    """torchvision's ``maskrcnn_resnet50_fpn`` with frozen batch norm, random weights, and the settings of ours."""
    torch = require_torchvision()
    from torchvision.models.detection import MaskRCNN as TorchMaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(0)
    ours = DetectorModelConfig()
    net = TorchMaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5),
        num_classes=1 + len(ours.class_names),
        min_size=min(canvas),
        max_size=max(canvas),
        rpn_pre_nms_top_n_train=ours.rpn.pre_nms,
        rpn_pre_nms_top_n_test=ours.rpn.pre_nms,
        rpn_post_nms_top_n_train=ours.rpn.post_nms,
        rpn_post_nms_top_n_test=ours.rpn.post_nms,
        box_batch_size_per_image=ours.box.sample,
        box_detections_per_img=CELLS,
    )
    # Masks stay on their grid, as ours do; pasting them into the image is another step.
    net.transform.postprocess = lambda detections, *sizes: detections
    return net.to(memory_format=torch.channels_last if name.endswith("channels_last") else torch.contiguous_format)


def require_torchvision():
    try:
        import torch
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise SystemExit(f'torchvision does not load ({error}); pip install -e ".[bench]", or --only-ours') from error
    return torch


def smears(count: int, canvas: Size) -> tuple[np.ndarray, np.ndarray, Instances]:
    """Images of noise in [0, 1], their sizes, and two discs in each as truth."""
    rng = np.random.default_rng(0)
    images = rng.random((count, *canvas, 3), np.float32)
    side = np.array(canvas[::-1])
    corner = rng.uniform(0.05, 0.6, (count, CELLS, 2)) * side
    boxes = np.concatenate([corner, corner + rng.uniform(0.15, 0.3, corner.shape) * side], axis=-1)
    grid = np.linspace(-1, 1, 112)
    discs = np.broadcast_to(np.hypot(grid, grid[:, None]) < 1, (count, CELLS, 112, 112))
    labels = np.zeros((count, CELLS), np.int32)
    truth = Instances(boxes.astype(np.float32), labels, labels == 0, discs)
    return images, np.full((count, 2), canvas, np.int32), truth


def check_same(canvas: Size, tolerance: float = 1e-3) -> None:
    """Both sides are one network: as many parameters, and with the same weights the same coarsest feature map."""
    torch, net, model = require_torchvision(), torch_model(SAME[0], canvas).eval(), our_model(SAME[-1], canvas)
    ours, theirs = parameter_count(model), sum(p.numel() for p in net.parameters())
    if ours != theirs:
        raise SystemExit(f"Mask R-CNN: {ours:,} parameters here, {theirs:,} in torchvision")
    load_torchvision_mask_rcnn(model, net.state_dict(), epsilon=1e-5)
    images, sizes, _ = smears(1, canvas)
    with torch.inference_mode():
        batch, _ = net.transform([torch.from_numpy(images[0].transpose(2, 0, 1).copy())])
        reference = net.backbone(batch.tensors)["3"].permute(0, 2, 3, 1).numpy()
    difference = np.abs(nnx.jit(MaskRCNN.pyramid)(model, images, sizes)[3] - reference).max() / reference.std()
    if not difference <= tolerance:
        raise SystemExit(f"Mask R-CNN: features differ from torchvision's by {difference:.2g} of their deviation")
    print(f"{ours:,} parameters on both sides; with equal weights, features differ by {difference:.1e} deviations")


def main(make: Make, benchmark: str, description: str) -> None:
    """Time the candidates that ``make`` builds, and measure their memory."""
    parser = arguments(description, rounds=5)
    parser.add_argument("--canvas", default="480x640", metavar="HxW")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--only-ours", action="store_true", help="without torchvision")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory, which compiles once more")
    parser.add_argument("--default-allocator", action="store_true", help="do not keep freed memory")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time")
    options = parser.parse_args()
    if options.cpu_time:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before any thread pool counts the cores
    canvas = tuple(int(side) for side in options.canvas.split("x"))
    work = {"Mask R-CNN": (SAME[-1:] if options.only_ours else SAME, canvas),
            "compact Mask R-CNN": ((COMPACT,), compact().model.canvas)}
    # In children, and first: their memory is their own, and this process is still small.
    peaks = {} if options.no_memory else {
        name: peak_memory(make, name, options.batch_size, size) for names, size in work.values() for name in names
    }
    if not options.default_allocator:
        keep_freed_memory()
    if not options.only_ours:
        check_same(canvas)
        if options.cpu_time:
            require_torchvision().set_num_threads(1)
    cases = []
    for label, (names, size) in work.items():
        calls = {name: make(name, options.batch_size, size) for name in names}
        timing = interleave(calls, options.rounds, clock="processor" if options.cpu_time else "wall")
        baseline = min((name for name in names if name in SAME[:-1]), key=timing.median, default=names[0])
        title = f"{label}, {options.batch_size} images {size[0]}x{size[1]}"
        cases.append(Case(title, timing, baseline, options.batch_size, peak_mib=peaks))
    report(benchmark + "_one_thread" * options.cpu_time, cases, options)
