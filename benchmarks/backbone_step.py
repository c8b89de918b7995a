"""Training step and inference of the backbones as classifiers, against torchvision in PyTorch and Keras on JAX.

    python benchmarks/backbone_step.py [--write] [--force] [--rounds N] [--models ...] [--batch-size N] [--size N]

All do the same work on the same float32 batch: normalisation, forward pass in training mode, cross-entropy, backward
pass, AdamW without decay of biases and scales; no augmentation, average pooling and four classes. PyTorch runs eagerly
in both memory layouts, with its fused AdamW; the faster layout is the baseline. Keras compiles its steps with XLA as
we do; it has no ResNet18. Before anything is timed, torchvision's net must have as many parameters as ours and, with
its weights in ours, the same logits. Keras' must have kernels of as many numbers: its ResNet50 has biases before batch
norms, and its InceptionV3 no scales after them.

FLOPs are those of the plain network by XLA's count, whatever a framework does to compute it, so the share of the peak
is of useful work. Keras' ResNet50 has fewer: its stride comes one convolution earlier. The peak is the data sheet's, or
on a CPU that of a matrix product. ``--cpu-time`` runs on one thread and counts processor time, which hardly depends on
what else the machine does.
"""

import functools
import os
import time
from unittest import mock

import jax
import numpy as np
from classifiers import OPTIM, inference_and_arguments, our_inference, our_step, step_and_arguments
from common import Case, arguments, interleave, peak_memory, report
from jax import lax

from wbcjax.config import ModelConfig
from wbcjax.models import build, layers, parameter_count
from wbcjax.pretrained.torchvision import load_torchvision_backbone
from wbcjax.training.allocator import keep_freed_memory
from wbcjax.training.peak import measured_peak, peak_flops
from wbcjax.training.state import split

SIZES = {"vgg16": 224, "resnet18": 224, "resnet50": 224, "inception_v3": 299}
"""Pixels a side, as published."""
KERAS = {"vgg16": "VGG16", "resnet50": "ResNet50", "inception_v3": "InceptionV3"}
TORCH = ("torch contiguous", "torch channels_last")
CLASSES = 4


@functools.cache  # compiled, or built layer by layer, which takes longer than most of what is timed
def our_model(name, size, flavour="torchvision"):
    return build(ModelConfig(name=name, image_size=(size, size), num_classes=CLASSES, flavour=flavour))


def torch_net(name):
    """torchvision's, with random weights, the preprocessing of ours and its pooling."""
    torch, torchvision = require_torchvision()
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **options)
    if name == "vgg16":
        net.avgpool = torch.nn.AdaptiveAvgPool2d(1)
        net.classifier = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(512, CLASSES))
    net.register_forward_pre_hook(lambda net, inputs: ((inputs[0] - 0.5) / 0.25,))
    return net


@functools.cache
def keras_model(name, size):
    """Keras', with random weights, the preprocessing of ours and its head."""
    os.environ["KERAS_BACKEND"] = "jax"  # read once, when keras is imported
    import keras

    keras.utils.set_random_seed(0)
    trunk = getattr(keras.applications, KERAS[name])(
        weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg"
    )
    model = keras.Sequential([
        keras.Input((size, size, 3)),
        keras.layers.Rescaling(4.0, offset=-2.0),
        trunk,
        keras.layers.Dropout(0.0 if name == "resnet50" else 0.5),
        keras.layers.Dense(CLASSES),
    ])
    optimizer = keras.optimizers.AdamW(OPTIM.learning_rate, weight_decay=OPTIM.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def require_torchvision():
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise SystemExit(f'torchvision does not load ({error}); pip install -e ".[bench]", or --only-ours') from error
    return torch, torchvision


def images_and_labels(count, size):
    rng = np.random.default_rng(0)
    return {"image": rng.random((count, size, size, 3), np.float32),
            "label": rng.integers(0, CLASSES, count, dtype=np.int32)}


def make(candidate, mode, name, count, size):
    """(of the table's rows, train or inference, backbone, images, their side) -> one call of it."""
    batch = images_and_labels(count, size)
    if candidate in TORCH:
        from classifier_step import torch_inference, torch_step

        torch, _ = require_torchvision()
        layout = torch.channels_last if candidate.endswith("channels_last") else torch.contiguous_format
        return (torch_step if mode == "train" else torch_inference)(torch_net(name), batch, layout)
    on_device = jax.device_put(batch)
    if candidate == "keras":
        model = keras_model(name, size)
        if mode == "train":
            return functools.partial(model.train_on_batch, on_device["image"], on_device["label"])
        return functools.partial(model.predict_on_batch, on_device["image"])
    return (our_step if mode == "train" else our_inference)(our_model(name, size), on_device)


def give_statistics(net, images):
    """Batch norms take on the statistics of ``images``: with those of a new net, InceptionV3's features vanish."""
    torch, _ = require_torchvision()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain average over the batches seen, of which there is one
    with torch.no_grad():
        net.train()(images)
    net.eval()


def check_same(name, size, candidates, tolerance=1e-3):
    """Every candidate is the same network: parameters against torchvision, and logits with its weights; kernels
    against Keras."""
    model = our_model(name, size)
    print(f"{name}: {parameter_count(model):,} parameters", end="")
    if TORCH[0] in candidates:
        torch, _ = require_torchvision()
        net, batch = torch_net(name), images_and_labels(2, size)
        images = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
        give_statistics(net, images)
        ours, theirs = parameter_count(model), sum(p.numel() for p in net.parameters())
        if ours != theirs:
            raise SystemExit(f"{name}: {ours:,} parameters here, {theirs:,} in torchvision")
        load_torchvision_backbone(model.backbone, net.state_dict())
        head = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)][-1]
        model.classifier.kernel[...] = head.weight.detach().numpy().T
        model.classifier.bias[...] = head.bias.detach().numpy()
        with torch.inference_mode():
            reference = net(images).numpy()
        # Against how far the images lie apart: logits that do not depend on the image would prove nothing.
        apart = np.abs(reference[0] - reference[1]).max()
        difference = np.abs(np.asarray(our_inference(model, batch)()) - reference).max()
        if not difference < tolerance * apart:
            raise SystemExit(f"{name}: logits differ from torchvision's by {difference:.2g}, two images by {apart:.2g}")
        print(f"; logits differ from torchvision's by {difference / apart:.1e} of those of two images", end="")
    if "keras" in candidates:
        ours = sum(a.size for a in jax.tree.leaves(split(model)[1]) if a.ndim > 1)
        theirs = sum(int(np.prod(v.shape)) for v in keras_model(name, size).trainable_variables if len(v.shape) > 1)
        if ours != theirs:
            raise SystemExit(f"{name}: kernels of {ours:,} numbers here, of {theirs:,} in Keras")
        print(f"; kernels of {ours:,} numbers as in Keras", end="")
    print(flush=True)


def count_flops(mode, name, count, size, flavour="torchvision"):
    """Floating-point operations of a call, by XLA's count, with plain convolutions whatever the device.

    Our rules on a CPU loop over images, and XLA counts one turn of a loop.
    """

    def plain(x, kernel, strides=(1, 1), padding="SAME"):
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    model, batch = our_model(name, size, flavour), images_and_labels(count, size)
    with mock.patch.object(layers, "conv2d", plain):
        function, args = (step_and_arguments if mode == "train" else inference_and_arguments)(model, batch)
        return function.lower(*args).cost_analysis()["flops"]


def cases_of(name, size, options, clock, peak):
    candidates = ["wbcjax"] if options.only_ours else [*TORCH, *(["keras"] if name in KERAS else []), "wbcjax"]
    check_same(name, size, candidates)
    count = options.batch_size
    for mode in ("train", "inference"):
        flops = dict.fromkeys(candidates, count_flops(mode, name, count, size))
        if "keras" in candidates:
            flops["keras"] = count_flops(mode, name, count, size, "keras")
        # In children, and first: their memory is their own.
        peaks = {} if options.no_memory else {c: peak_memory(make, c, mode, name, count, size) for c in candidates}
        calls = {candidate: make(candidate, mode, name, count, size) for candidate in candidates}
        timing = interleave(calls, options.rounds, clock=clock)
        best = min((c for c in candidates if c in TORCH), key=timing.median, default="wbcjax")
        print(f"{name} {mode}:", ", ".join(f"{c} {timing.median(c):.3f} s" for c in candidates), flush=True)
        yield Case(f"{name} {mode}, {count} images {size}x{size}", timing, best, count, "images", peaks, flops, peak)


def main():
    parser = arguments(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batch-size", type=int, help="8 on a CPU, 64 elsewhere")
    parser.add_argument("--size", type=int, help="pixels a side; that of the publications: 224, InceptionV3 299")
    parser.add_argument("--only-ours", action="store_true", help="without torchvision and Keras")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory, which compiles once more")
    parser.add_argument("--default-allocator", action="store_true", help="do not keep freed memory")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time")
    options = parser.parse_args()
    if options.cpu_time:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before any thread pool counts the cores
        if not options.only_ours:
            require_torchvision()[0].set_num_threads(1)
    if not options.default_allocator:
        keep_freed_memory()
    options.batch_size = options.batch_size or (8 if jax.default_backend() == "cpu" else 64)
    peak = measured_peak(clock=time.process_time) if options.cpu_time else peak_flops()
    print("peak " + ("unknown" if peak is None else f"{peak / 1e9:,.0f} GFLOP/s"))
    clock = "processor" if options.cpu_time else "wall"
    cases = [case for name in options.models
             for case in cases_of(name, options.size or SIZES[name], options, clock, peak)]
    report("backbone_step" + "_one_thread" * options.cpu_time, cases, options)


if __name__ == "__main__":
    main()
