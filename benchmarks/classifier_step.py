"""Training step and inference of the classifiers, against the same networks in PyTorch.

    python benchmarks/classifier_step.py [--write] [--force] [--rounds N] [--models ...] [--sizes 120x160 ...]

Both sides do the same work on the same float32 batch: normalisation, forward pass in training mode (dropout and batch
statistics), cross-entropy, backward pass, AdamW without decay of biases and scales; no augmentation. PyTorch runs
eagerly in both memory layouts, with its fused AdamW; the faster layout is the baseline of each case. Before anything
is timed, both nets must have as many parameters and, with copied weights, the same logits and gradients.

The process keeps freed memory (``wbcjax.training.allocator``), for both sides; ``--default-allocator`` leaves it as it
is. ``--cpu-time`` runs everything on one thread and counts processor time instead of wall time: it tells little of two
cores, but hardly depends on what else the machine does.
"""

import os

import jax
import numpy as np
import optax
import torch
from classifiers import OPTIM, cross_entropy, our_inference, our_step
from common import Case, arguments, interleave, report
from torch_nets import NETS, copy_weights

from wbcjax.config import ModelConfig
from wbcjax.models import build, parameter_count
from wbcjax.training.allocator import keep_freed_memory
from wbcjax.training.state import merge, split


def torch_batch(batch, layout):
    images = torch.from_numpy(np.array(batch["image"].transpose(0, 3, 1, 2)))
    return images.contiguous(memory_format=layout), torch.from_numpy(np.array(batch["label"])).long()


def torch_step(net, batch, layout):
    net = net.to(memory_format=layout).train()
    images, labels = torch_batch(batch, layout)
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": OPTIM.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=OPTIM.learning_rate, fused=True)

    def call():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def torch_inference(net, batch, layout):
    net = net.to(memory_format=layout).eval()
    images, _ = torch_batch(batch, layout)

    @torch.inference_mode()
    def call():
        return net(images)

    return call


def check_same(model, net, batch, tolerance=1e-4):
    """Both sides are one network: as many parameters, equal logits, and as long a gradient (in evaluation mode)."""
    ours, theirs = parameter_count(model), sum(p.numel() for p in net.parameters())
    if ours != theirs:
        raise SystemExit(f"{type(model).__name__}: {ours} parameters here, {theirs} in PyTorch")
    logits = np.asarray(our_inference(model, batch)())
    difference = np.abs(logits - torch_inference(net, batch, torch.contiguous_format)().numpy()).max()
    if not difference <= tolerance:
        raise SystemExit(f"{type(model).__name__}: logits differ from PyTorch's by {difference:.2g}")

    graphdef, params, stats = split(model)

    @jax.jit
    def gradient_norm(params):
        def loss(params):
            return cross_entropy(merge(graphdef, params, stats, training=False), {}, batch, jax.random.key(0))[0]

        return optax.global_norm(jax.grad(loss)(params))

    images, labels = torch_batch(batch, torch.contiguous_format)
    torch.nn.functional.cross_entropy(net(images), labels).backward()
    norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm().item()
    relative = abs(float(gradient_norm(params)) / norm - 1)
    if not relative <= tolerance:
        raise SystemExit(f"{type(model).__name__}: the gradient's norm differs from PyTorch's by {relative:.2g} of it")
    return difference, relative


LAYOUTS = {"torch contiguous": torch.contiguous_format, "torch channels_last": torch.channels_last}
OURS = {"train": our_step, "inference": our_inference}
THEIRS = {"train": torch_step, "inference": torch_inference}


def cases_of(name, size, batch_size, rounds, clock):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.random((batch_size, *size, 3), np.float32),
        "label": rng.integers(0, 4, batch_size, dtype=np.int32),
    }
    on_device = jax.device_put(batch)
    model = build(ModelConfig(name=name, image_size=size))

    def net():
        torch.manual_seed(0)
        net = NETS[name](size)
        copy_weights(model, net)
        return net

    logits, gradient = check_same(model, net(), batch)
    print(f"{name} {size[0]}x{size[1]}: {parameter_count(model):,} parameters on both sides; "
          f"logits differ by {logits:.1e}, the gradient's norm by {gradient:.1e} of it")
    for mode in ("train", "inference"):
        candidates = {label: THEIRS[mode](net(), batch, layout) for label, layout in LAYOUTS.items()}
        candidates["wbcjax"] = OURS[mode](model, on_device)
        timing = interleave(candidates, rounds, clock=clock)
        best = min(LAYOUTS, key=timing.median)
        yield Case(f"{name} {mode}, {batch_size} images {size[0]}x{size[1]}", timing, best, batch_size)


def main():
    parser = arguments(__doc__.splitlines()[0], rounds=15)
    parser.add_argument("--models", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--sizes", nargs="+", default=["120x160", "64x64"], metavar="HxW")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--default-allocator", action="store_true", help="do not keep freed memory")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time")
    options = parser.parse_args()
    if not options.default_allocator:
        keep_freed_memory()
    if options.cpu_time:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    sizes = [tuple(int(s) for s in text.split("x")) for text in options.sizes]
    cases = [
        case
        for name in options.models
        for size in sizes
        for case in cases_of(
            name, size, options.batch_size, options.rounds, "processor" if options.cpu_time else "wall"
        )
    ]
    report("classifier_step" + "_one_thread" * options.cpu_time, cases, options)


if __name__ == "__main__":
    main()
