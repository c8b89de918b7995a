"""InceptionV3: sizes of every stage, wiring and edges of its blocks, normalisation, and the auxiliary head.

Its values are compared with torchvision's and Keras' in ``tests/parity/test_classifier_parity.py``.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import DetectorModelConfig, ModelConfig
from wbcjax.errors import ConfigError
from wbcjax.models import BackboneClassifier, parameter_count
from wbcjax.models.inception import BLOCKS, AuxHead, BasicConv, InceptionV3, Mixed
from wbcjax.models.norms import FrozenBatchNorm, make_norm

CLASSIFIER = ModelConfig(name="inception_v3", image_size=(75, 75))
DETECTOR = DetectorModelConfig(backbone="inception_v3", norm="batch")
SIDES = {  # of every stage's output for images of 299 and of 75 pixels, by hand: n - 2, (n - 3) // 2 + 1 or n
    "conv_1a": (149, 37), "conv_2a": (147, 35), "c1": (147, 35), "conv_3b": (73, 17), "c2": (71, 15),
    "mixed_5b": (35, 7), "mixed_5c": (35, 7), "c3": (35, 7), "mixed_6a": (17, 3), "mixed_6b": (17, 3),
    "mixed_6c": (17, 3), "mixed_6d": (17, 3), "c4": (17, 3), "mixed_7a": (8, 1), "mixed_7b": (8, 1), "c5": (8, 1),
}
CHANNELS = (32, 32, 64, 80, 192, 256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048)
SHARED = {"dtype": jnp.dtype("float32")}
TOY = {  # one convolution with two successors, one without a predecessor, one after pooling
    "first": ("x", 2, 1), "a": ("first", 3, (1, 3)), "b": ("first", 4, (3, 1)), "pool": ("pooled", 5, 1),
}


def shapes_only(config):
    return nnx.eval_shape(lambda: InceptionV3(config, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def classifier():
    return shapes_only(dataclasses.replace(CLASSIFIER, frozen_stages=6))


@pytest.fixture(scope="module")
def detector():
    return shapes_only(DETECTOR)


def outputs(backbone, size):
    """Shapes of every stage's output."""
    graphdef, state = nnx.split(backbone)

    def run(state, x):
        model = nnx.merge(graphdef, state)
        model.eval()
        return {name: (x := stage(x)) for name, stage in model.stages()}

    found = jax.eval_shape(run, state, jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    return {name: found[name].shape for name, _ in backbone.stages()}


def arrays(module):
    flat = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    return {"/".join(map(str, path)): variable for path, variable in flat}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("column", [0, 1])
def test_published_sizes(classifier, column):
    side = (299, 75)[column]
    expected = {name: (2, sides[column], sides[column], channels)
                for (name, sides), channels in zip(SIDES.items(), CHANNELS, strict=True)}
    assert outputs(classifier, (side, side)) == expected
    assert len(classifier.stage_names) == len(expected)
    for name, channels in classifier.channels.items():
        assert expected[name][3] == channels


def test_smallest_images():
    with pytest.raises(ConfigError, match=r"\(74, 80\) is too small for inception_v3: expected at least 75"):
        nnx.eval_shape(lambda: BackboneClassifier(dataclasses.replace(CLASSIFIER, image_size=(74, 80)),
                                                  rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("size", [(64, 96), (107, 139), (33, 40)])
def test_maps_of_a_detector_are_its_images_over_the_stride(detector, size):
    found = outputs(detector, size)
    for name, stride in detector.strides.items():
        assert found[name] == (2, -(-size[0] // stride), -(-size[1] // stride), detector.channels[name])


def test_paths_and_parameters(classifier, detector):
    """Both kinds have the same weights."""
    ours, theirs = (arrays(backbone) for backbone in (classifier, detector))
    assert {path: x.shape for path, x in ours.items()} == {path: x.shape for path, x in theirs.items()}
    for path, shape in {
        "conv_1a/conv/kernel": (3, 3, 3, 32), "mixed_5b/branch1x1/conv/kernel": (1, 1, 192, 64),
        "mixed_5d/branch5x5_2/conv/kernel": (5, 5, 48, 64), "mixed_6c/branch7x7_2/conv/kernel": (1, 7, 160, 160),
        "mixed_6c/branch7x7_3/conv/kernel": (7, 1, 160, 192), "mixed_7a/branch7x7x3_4/conv/kernel": (3, 3, 192, 192),
        "mixed_7c/branch3x3dbl_3b/bn/scale": (384,), "mixed_7b/branch_pool/bn/var": (192,),
    }.items():
        assert ours[path].shape == shape
    assert sum(path.endswith("kernel") for path in ours) == 94
    assert parameter_count(detector) == 21_785_568  # torchvision's 23,834,568 without the last layer


def test_frozen_stages_keep_their_statistics(classifier):
    kinds = {path[0]: type(module) for path, module in nnx.iter_modules(classifier) if path[-1:] == ("bn",)}
    frozen = {name for name, kind in kinds.items() if kind is FrozenBatchNorm}
    assert frozen == set(classifier.stage_names[:6])
    assert set(kinds) - frozen == set(classifier.stage_names[6:])


@pytest.mark.parametrize(("block", "ends"), [
    ("mixed_5b", ("branch1x1", "branch5x5_2", "branch3x3dbl_3", "branch_pool")),
    ("mixed_6a", ("branch3x3", "branch3x3dbl_3", "pooled")),
    ("mixed_6b", ("branch1x1", "branch7x7_3", "branch7x7dbl_5", "branch_pool")),
    ("mixed_7a", ("branch3x3_2", "branch7x7x3_4", "pooled")),
    ("mixed_7b", ("branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool")),
])
def test_order_of_the_outputs(classifier, block, ends):
    assert getattr(classifier, block).ends == ends
    assert next(iter(BLOCKS[block])) in (*ends, "branch3x3_1")


def windows(x, size, stride, padding, fill=0.0):
    """The values that each tap of a kernel sees, one array a tap, in reading order."""
    x = np.pad(np.asarray(x), ((0, 0), *padding, (0, 0)), constant_values=fill)
    height, width = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], size, strict=True))
    return [x[:, i : i + stride * height : stride, j : j + stride * width : stride][:, :height, :width]
            for i in range(size[0]) for j in range(size[1])]


def conv(x, module, stride=1, padding=None):
    """A convolution of the block with a fresh norm, by default of padding that keeps the size."""
    kernel = np.asarray(module.conv.kernel[...])
    size = kernel.shape[:2]
    padding = [(n // 2, n // 2) for n in size] if padding is None else padding
    taps = kernel.reshape(-1, *kernel.shape[2:])
    y = sum(values @ tap for values, tap in zip(windows(x, size, stride, padding), taps, strict=True))
    return np.maximum(y / np.sqrt(1.001), 0)


@nnx.jit
def run(module, x):
    return module(x)


def filled(make):
    """A module in evaluation, with kernels from NumPy: to compile the drawing of each takes a second."""
    module = nnx.eval_shape(make)
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    for seed, (path, variable) in enumerate(nnx.to_flat_state(state)):
        shape = variable.get_value().shape
        kernel = path[-1] == "kernel"
        value = normal(seed, *shape) / np.sqrt(np.prod(shape[:-1])) if kernel else float(path[-1] in ("scale", "var"))
        variable.set_value(jnp.broadcast_to(value, shape))
    nnx.update(module, state)
    module.eval()
    return module


def toy(branches, **options):
    return filled(lambda: Mixed(3, branches, "batch", rngs=nnx.Rngs(0), **options, **SHARED))


@pytest.mark.parametrize("flavour", ["torchvision", "keras"])
def test_a_block_by_hand(flavour):
    block = toy(TOY, same=False, flavour=flavour)
    x = normal(1, 2, 4, 5, 3)
    sums = sum(windows(x, (3, 3), 1, [(1, 1), (1, 1)]))
    rows, columns = np.array([2, 3, 3, 2]), np.array([2, 3, 3, 3, 2])
    pooled = sums / (9 if flavour == "torchvision" else np.outer(rows, columns)[:, :, None])
    first = conv(x, block.first)
    expected = np.concatenate([conv(first, block.a), conv(first, block.b), conv(pooled, block.pool)], axis=3)
    np.testing.assert_allclose(run(block, x), expected, rtol=1e-4, atol=1e-5)
    assert block.outputs == expected.shape[3] == 12


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("size", [(7, 9), (6, 8)])
def test_a_halving_block_by_hand(size, same):
    branches = {"first": ("x", 2, 1), "last": ("first", 3, 3), "other": ("x", 1, 3)}
    block = toy(branches, same=same, flavour="torchvision")
    x = normal(2, 2, *size, 3)
    padding = [(int(same), int(same))] * 2
    pooled = np.max(windows(x, (3, 3), 2, padding, -np.inf), axis=0)
    expected = np.concatenate(
        [conv(conv(x, block.first), block.last, 2, padding), conv(x, block.other, 2, padding), pooled], axis=3)
    np.testing.assert_allclose(run(block, x), expected, rtol=1e-4, atol=1e-5)
    assert block.outputs == expected.shape[3] == 7


@pytest.mark.parametrize("kind", ["batch", "frozen", "group"])
def test_epsilon(kind):
    """Variances far below 1e-3 are where it shows."""
    small = 1e-3 * np.asarray(normal(3, 1, 5, 6, 4))
    assert nnx.eval_shape(lambda: BasicConv(4, 4, 1, kind, rngs=nnx.Rngs(0), **SHARED)).bn.epsilon == 1e-3
    norm = make_norm(kind, 4, epsilon=0.25, rngs=nnx.Rngs(0), **SHARED)
    norm.train()
    if kind == "frozen":
        norm.var[...] = jnp.full((4,), 2.0)
        expected = small / 1.5
    else:
        # Of one image, and four channels are four groups.
        mean, var = small.mean((1, 2), keepdims=True), small.var((1, 2), keepdims=True)
        expected = (small - mean) / np.sqrt(var + 0.25)
    np.testing.assert_allclose(norm(jnp.asarray(small)), expected, rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def aux():
    return filled(lambda: AuxHead(5, rngs=nnx.Rngs(0), **SHARED))


def test_auxiliary_head_by_hand(aux):
    """Of 17×17 pixels it sees one window of its 5×5 convolution, of 20×17 two below each other."""
    for rows, count in ((17, 1), (20, 2)):
        x = normal(4, 1, rows, 17, 768)
        y = conv(np.mean(windows(x, (5, 5), 3, [(0, 0), (0, 0)]), axis=0), aux.conv0)
        y = conv(y, aux.conv1, padding=[(0, 0), (0, 0)])
        assert y.shape == (1, count, 1, 768)
        expected = y.mean((1, 2)) @ np.asarray(aux.logits.kernel[...])
        np.testing.assert_allclose(run(aux, x), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(3, 3), (1, 2), (5, 7), (3, 17)])
def test_auxiliary_head_of_small_maps(aux, size):
    """One of 3×3 pixels is averaged to one, which the middle of the convolution's kernel sees."""
    x = normal(5, 2, *size, 768)
    logits = run(aux, x)
    assert logits.shape == (2, 5) and logits.dtype == jnp.float32
    if size == (3, 3):
        y = conv(np.asarray(x).mean((1, 2), keepdims=True), aux.conv0)[:, 0, 0]
        y = np.maximum(y @ np.asarray(aux.conv1.conv.kernel[2, 2]) / np.sqrt(1.001), 0)
        expected = y @ np.asarray(aux.logits.kernel[...])
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_half_precision_keeps_logits_whole(aux):
    half = nnx.eval_shape(lambda: AuxHead(5, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(half)
    out = jax.eval_shape(lambda s, x: nnx.view(nnx.merge(graphdef, s), use_running_average=True)(x), state,
                         jax.ShapeDtypeStruct((2, 17, 17, 768), jnp.bfloat16))
    assert out.dtype == jnp.float32
