"""Training step of Mask R-CNN, against torchvision's: five losses, backward pass, AdamW.

    python benchmarks/detector_step.py [--write] [--force] [--rounds N] [--canvas 480x640] [--batch-size 2]

Both sides train every layer of ResNet50-FPN with frozen batch norm on the same float32 batch, without augmentation, and
sample as many anchors and proposals. PyTorch runs eagerly in both memory layouts, with its fused AdamW; the faster
layout is the baseline. The compact detector has no counterpart and stands alone.

The peak memory is that of a process that does nothing else, libraries and compilation included. Freed memory is kept
(``wbcjax.training.allocator``) on both sides while they are timed, not while their memory is measured. ``--cpu-time``
runs on one thread and counts processor time, which hardly depends on what else the machine does.
"""

import jax
import numpy as np
from detectors import main, our_model, require_torchvision, smears, torch_model

from wbcjax.config import OptimConfig
from wbcjax.ops.masks import paste
from wbcjax.training.optim import make_optimizer
from wbcjax.training.state import init_state, make_step, split

OPTIM = OptimConfig(schedule="constant", warmup=0.0, clip_norm=None, ema_decay=None, learning_rate=1e-5)


def losses(model, resident, batch, key):
    return sum(model.losses(*batch, key).values()), {}


def ours(name, count, canvas):
    model, batch = our_model(name, canvas), jax.device_put(smears(count, canvas))
    optimizer = make_optimizer(OPTIM, steps=1)
    step = make_step(split(model)[0], optimizer, losses, OPTIM)
    state = init_state(model, optimizer, OPTIM, seed=0)

    def call():
        nonlocal state
        state, metrics = step(state, {}, batch)
        return metrics["loss"]

    return call


def theirs(name, count, canvas):
    torch, net = require_torchvision(), torch_model(name, canvas).train()
    images, _, truth = smears(count, canvas)
    images = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images]
    targets = [{"boxes": torch.from_numpy(boxes), "labels": torch.ones(len(boxes), dtype=torch.int64),
                "masks": torch.from_numpy(paste(masks.astype(np.float32), boxes, canvas).astype(np.uint8))}
               for boxes, masks in zip(truth.boxes, truth.masks, strict=True)]
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": OPTIM.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=OPTIM.learning_rate, fused=True)

    def call():
        optimizer.zero_grad(set_to_none=True)
        loss = sum(net(images, targets).values())
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def make(name, count, canvas):
    return (theirs if name.startswith("torchvision") else ours)(name, count, canvas)


if __name__ == "__main__":
    main(make, "detector_step", __doc__.splitlines()[0])
