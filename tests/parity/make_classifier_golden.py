"""Write ``golden/classifiers.npz``: what torchvision, timm and Keras make of random weights, stage by stage.

    KERAS_BACKEND=jax python tests/parity/make_classifier_golden.py

Needs torch, torchvision and keras (and timm live), which the test ``test_classifier_parity.py`` does not. Weights are
too large to keep: both sides draw them, each array from its name and shape, so the file holds names, shapes, and values
at regular distances of the stages' outputs and of the gradients. All of it was computed in float64, so that what
differs is our rounding.
"""

import importlib.metadata
import json
import math
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "classifiers.npz"
LIVE_SEED = 9
CLASSES, LABELS = 7, np.array([1, 4])
SIZES = ((75, 91), (107, 139))
"""Every pooling and every stride meets an odd edge."""
KEPT, KEPT_OF_GRADIENT, SMALL = 500, 150, 512
"""So many values of a large array are kept, at most about; on a map of one pixel only the middle of a kernel has a
gradient."""
PERIOD = 2**20 - 3
"""A prime: values of larger arrays are repeated, so that drawing VGG16's first dense layer takes no gigabyte."""


class Network(NamedTuple):
    """A network and the sizes of its images; gradients are those at the first."""

    library: str
    name: str
    """Ours."""
    sizes: tuple[tuple[int, int], ...] = SIZES
    aux: bool = False
    seed: int = 3
    """Of the golden file, such that no ReLU has an input that is 0 but for rounding: below one, gradients of the same
    library differ by 2e-3 between float32 and float64. In the many pixels of large images there is always one."""

    @property
    def key(self) -> str:
        return f"{self.library}-{self.name}{'-aux' * self.aux}"


NETWORKS = {network.key: network for network in (
    Network("torchvision", "resnet18"),
    Network("torchvision", "resnet50"),
    Network("torchvision", "resnet101"),
    Network("torchvision", "vgg16"),
    Network("torchvision", "vgg16_bn"),
    Network("torchvision", "inception_v3", seed=4),
    Network("torchvision", "inception_v3", ((299, 307),), aux=True),  # smaller ones torchvision's head refuses
    Network("timm", "resnet50"),
    Network("timm", "vgg16"),
    Network("timm", "inception_v3"),
    Network("keras", "resnet50"),
    Network("keras", "vgg16", ((229, 241),)),  # the sizes from which its top gets 7×7
    Network("keras", "inception_v3"),
)}
LIVE_ONLY = ("torchvision-resnet101", "timm-resnet50", "timm-vgg16", "timm-inception_v3")
"""Their networks are in the file by other names, but for ResNet101, which has ResNet50's."""

KERAS = {"resnet50": "ResNet50", "vgg16": "VGG16", "inception_v3": "InceptionV3"}
KERAS_STAGES = {
    "resnet50": {"pool1_pool": "stem", "conv2_block3_out": "c2", "conv3_block4_out": "c3", "conv4_block6_out": "c4",
                 "conv5_block3_out": "c5", "avg_pool": "features"},
    "vgg16": {"block1_conv2": "c0", "block2_conv2": "c1", "block3_conv3": "c2", "block4_conv3": "c3",
              "block5_conv3": "c4", "block5_pool": "c5"},
    "inception_v3": {"mixed0": "mixed_5b", "mixed2": "c3", "mixed3": "mixed_6a", "mixed7": "c4", "mixed8": "mixed_7a",
                     "mixed10": "c5"},
}
TORCH_STAGES = {
    "resnet": {"maxpool": "stem", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"},
    "inception": {"Conv2d_2b_3x3": "c1", "Conv2d_4a_3x3": "c2", "Mixed_5b": "mixed_5b", "Mixed_5d": "c3",
                  "Mixed_6a": "mixed_6a", "Mixed_6e": "c4", "Mixed_7a": "mixed_7a", "Mixed_7c": "c5"},
}
"""Our names of their layers' outputs."""


def draw(name, shape, seed):
    """An array of a network, random but always the same for a name, shape and seed."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    size = int(np.prod(shape))
    uniform = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode())).uniform(-1, 1, min(size, PERIOD))
    if name.endswith(("running_var", "moving_variance")):
        values = 1 + 0.4 * uniform
    elif name.endswith(("running_mean", "moving_mean", "bias", "beta")):
        values = 0.2 * uniform
    elif len(shape) == 1:  # scale of a batch norm: the sum of a residual block must not grow from block to block
        values = (1 + 0.4 * uniform) * (0.3 if re.search(r"bn3|_3_bn", name) else 1.0)
    else:
        inputs = shape[:-1] if name.endswith("kernel") else shape[1:]
        gain = 0.02 if name in ("conv1_conv/kernel", "block1_conv1/kernel") else 1  # images from 0 to 255
        values = gain * uniform * (6 / np.prod(inputs)) ** 0.5
    return np.resize(values.astype(np.float32), shape)


def weights(shapes, seed):
    """All arrays of the given {name: shape}."""
    return {name: draw(name, tuple(shape), seed) for name, shape in shapes.items()}


def images(size, seed):
    """Two images in [0, 1]: random blocks of several sizes."""
    rng = np.random.RandomState(seed)
    blocks = [rng.uniform(size=(2, -(-size[0] // side), -(-size[1] // side), 3)) for side in (1, 4, 16)]
    large = [b.repeat(side, 1).repeat(side, 2) for b, side in zip(blocks, (1, 4, 16), strict=True)]
    return np.mean([b[:, : size[0], : size[1]] for b in large], axis=0).astype(np.float32)


def step(size, kept):
    """Distance of the values that are kept of so many: none that always meets the same place of a kernel. Small arrays
    are kept whole: some channels are dead."""
    if size <= SMALL:
        return 1
    distance = -(-size // kept)
    while math.gcd(distance, 2 * 3 * 5 * 7) > 1:
        distance += 1
    return distance


def thin(values, kept=KEPT):
    """Values at regular distances in the flattened array."""
    flat = np.asarray(values).ravel()
    return flat[:: step(flat.size, kept)]


def differentiated(shapes):
    """The names whose gradients are compared: not statistics, and not biases before batch norms, which we have not."""
    return [name for name in shapes if not re.search(r"running_|num_batches|moving_|_conv/bias", name)]


def reference(network, seed):
    """({name: shape}, [{stage: values} of each size], {name: gradient}), all thinned, of the library's own network.

    Raises:
      ImportError: if the library is not installed.
    """
    shapes, stages, gradients = (keras_reference if network.library == "keras" else torch_reference)(network, seed)
    return (shapes, [{name: thin(x).astype("f4") for name, x in one.items()} for one in stages],
            {name: thin(gradients[name], KEPT_OF_GRADIENT).astype("f4") for name in differentiated(shapes)})


def torch_reference(network, seed):
    """As ``reference``, of torchvision or timm, nothing thinned."""
    import torch

    model, mean, deviation = torch_model(network)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights(shapes, seed).items()})
    model.double().eval()
    model.training = network.aux  # of the network alone, so that it has auxiliary logits, and no dropout
    stages = [torch_stages(model, network, (images(size, seed) - np.array(mean)) / deviation) for size in network.sizes]
    loss = torch.nn.functional.cross_entropy
    labels = torch.from_numpy(LABELS)
    first = stages[0]
    (loss(first["logits"], labels) + (0.4 * loss(first["aux"], labels) if network.aux else 0)).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return shapes, [{name: channels_last(x.detach().numpy()) for name, x in one.items()} for one in stages], gradients


def torch_model(network):
    """The network, and mean and deviation of what it wants."""
    inception = network.name == "inception_v3"
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if network.library == "timm":
        import timm

        return timm.create_model(network.name, num_classes=CLASSES), *((0.5, 0.5) if inception else imagenet)
    import torchvision

    options = {"aux_logits": network.aux, "transform_input": True, "init_weights": False} if inception else {}
    options |= {"init_weights": False} if network.name.startswith("vgg") else {}
    return torchvision.models.get_model(network.name, weights=None, num_classes=CLASSES, **options), *imagenet


def torch_stages(model, network, batch):
    """Every stage's output by our names, as tensors with gradients."""
    import torch

    found, hooks = {}, []

    def keep(name):
        return lambda module, inputs, output: found.__setitem__(name, output)

    if network.name.startswith("vgg"):
        pools = [layer for layer in model.features if isinstance(layer, torch.nn.MaxPool2d)]
        for i, pool in enumerate(pools):
            hooks.append(pool.register_forward_pre_hook(lambda _, inputs, i=i: found.__setitem__(f"c{i}", inputs[0])))
        hooks.append(pools[-1].register_forward_hook(keep("c5")))
    else:
        names = TORCH_STAGES[re.match("[a-z]+", network.name)[0]]
        hooks += [model.get_submodule(theirs).register_forward_hook(keep(ours)) for theirs, ours in names.items()]
        hooks.append(model.fc.register_forward_pre_hook(lambda _, inputs: found.__setitem__("features", inputs[0])))
    output = model(torch.from_numpy(batch).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    return found | (dict(zip(("logits", "aux"), output, strict=True)) if network.aux else {"logits": output})


def channels_last(x):
    """A map as we have it."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def keras_reference(network, seed):
    """As ``reference``, of Keras on JAX, nothing thinned."""
    import jax
    import keras

    if keras.config.backend() != "jax":
        raise ImportError("Keras is not on JAX: set KERAS_BACKEND=jax")
    with jax.enable_x64(True):
        keras.config.set_floatx("float64")
        try:
            return _keras_reference(network, seed)
        finally:
            keras.config.set_floatx("float32")


def _keras_reference(network, seed):
    import jax
    import keras
    import optax

    model, preprocess = keras_model(network)
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    for weight, value in zip(model.weights, weights(shapes, seed).values(), strict=True):
        weight.assign(value)
    names = [*KERAS_STAGES[network.name].values(), "logits"]
    outputs = [model.get_layer(theirs).output for theirs in KERAS_STAGES[network.name]]
    stages = keras.Model(model.input, [*outputs, model.output])
    # Preprocessing works in place, and on values from 0 to 255.
    batches = [preprocess(images(size, seed).astype(np.float64) * 255) for size in network.sizes]
    maps = [dict(zip(names, map(np.asarray, stages(batch, training=False)), strict=True)) for batch in batches]

    def loss(trained):
        fixed = [variable.value for variable in model.non_trainable_variables]
        logits, _ = model.stateless_call(trained, fixed, batches[0], training=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    gradients = jax.grad(loss)([variable.value for variable in model.trainable_variables])
    paths = [variable.path for variable in model.trainable_variables]
    return shapes, maps, dict(zip(paths, map(np.asarray, gradients), strict=True))


def keras_model(network):
    """The network with logits as its output, and the preprocessing that it wants."""
    import keras

    keras.utils.clear_session()  # layers without a name of their own are counted from there
    make = getattr(keras.applications, KERAS[network.name])
    preprocess = getattr(keras.applications, network.name).preprocess_input
    if network.name == "vgg16":
        return make(weights=None, input_shape=(*network.sizes[0], 3), classes=CLASSES,
                    classifier_activation=None), preprocess
    base = make(weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3))
    return keras.Model(base.input, keras.layers.Dense(CLASSES, name="predictions")(base.output)), preprocess


def main():
    shapes, arrays = {}, {}
    for key, network in NETWORKS.items():
        if key in LIVE_ONLY:
            continue
        shapes[key], stages, gradients = reference(network, network.seed)
        for i, values in enumerate(stages):
            arrays |= {f"{key}/{i}/{name}": x for name, x in values.items()}
        arrays[f"{key}/gradients"] = np.concatenate(list(gradients.values()))
        deviations = {name: f"{x.std():.3g}" for name, x in stages[0].items()}
        smallest = min(gradients, key=lambda name: np.linalg.norm(gradients[name]))
        print(f"{key}: deviations {deviations}, least gradient {smallest} {np.linalg.norm(gradients[smallest]):.3g}",
              flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "keras")}
    np.savez_compressed(GOLDEN, shapes=json.dumps(shapes), versions=json.dumps(versions), **arrays)
    print(f"wrote {GOLDEN}: {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
