"""Inference of Mask R-CNN, against torchvision's: from images in [0, 1] to boxes, classes, scores and masks.

    python benchmarks/detector_inference.py [--write] [--force] [--rounds N] [--canvas 480x640] [--batch-size 2]

Masks stay on the grid of their box on both sides. Weights are random, and both report two detections an image, about
what a smear holds: each one more costs another pass of the mask head. The rest is as in ``detector_step``.
"""

import functools

import jax
from detectors import main, our_model, require_torchvision, smears, torch_model

from wbcjax.training.state import merge, split


def ours(name, count, canvas):
    images, sizes, _ = jax.device_put(smears(count, canvas))
    graphdef, params, stats = split(our_model(name, canvas))
    detect = jax.jit(lambda params, stats, *batch: merge(graphdef, params, stats, training=False)(*batch))
    return functools.partial(detect, params, stats, images, sizes)


def theirs(name, count, canvas):
    torch, net = require_torchvision(), torch_model(name, canvas).eval()
    images = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in smears(count, canvas)[0]]

    @torch.inference_mode()
    def call():
        return net(images)

    return call


def make(name, count, canvas):
    return (theirs if name.startswith("torchvision") else ours)(name, count, canvas)


if __name__ == "__main__":
    main(make, "detector_inference", __doc__.splitlines()[0])
