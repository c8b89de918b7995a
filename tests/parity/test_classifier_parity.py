"""Classifiers against those of torchvision, timm and Keras with the same random weights: every stage, the logits, and
the gradients of the mean cross-entropy.

The golden file holds what the libraries made of one set of weights; where they are installed another set is compared
live. Tolerances are relative to the standard deviation of the reference.
"""

import functools
import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from make_classifier_golden import (
    CLASSES,
    GOLDEN,
    KEPT_OF_GRADIENT,
    LABELS,
    LIVE_ONLY,
    LIVE_SEED,
    NETWORKS,
    differentiated,
    images,
    reference,
    step,
    thin,
    weights,
)

from wbcjax.config import ModelConfig
from wbcjax.models.backbone_classifier import BackboneClassifier
from wbcjax.pretrained.keras import keras_rules, load_keras_classifier
from wbcjax.pretrained.key_table import destination, same
from wbcjax.pretrained.timm import load_timm_classifier, timm_rules
from wbcjax.pretrained.torchvision import load_torchvision_classifier, torchvision_rules

TOLERANCE = 1e-4
KINK_TOLERANCE = 3e-2
"""Of gradients below a ReLU whose input is 0 but for rounding; see ``Network.seed``."""
LIBRARIES = {
    "torchvision": (load_torchvision_classifier, torchvision_rules),
    "timm": (load_timm_classifier, timm_rules),
    "keras": (load_keras_classifier, keras_rules),
}
PREPROCESSING = {"inception_v3": "symmetric"}
SLOW = ("torchvision-inception_v3-aux", "keras-vgg16")
"""Those of large images."""
CASES = [
    pytest.param(key, seed, marks=pytest.mark.slow if key in SLOW or kind == "live" else (), id=f"{key}-{kind}")
    for key in NETWORKS for kind, seed in (("golden", NETWORKS[key].seed), ("live", LIVE_SEED))
    if (key, kind) not in {(live, "golden") for live in LIVE_ONLY}
]


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file}


def expected(network, seed):
    """(names and shapes, stages of each size, gradients) of the reference, thinned."""
    if seed == LIVE_SEED:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        pytest.importorskip("torch" if network.library == "torchvision" else network.library)
        return reference(network, seed)
    shapes = json.loads(str(golden()["shapes"]))[network.key]
    stages = [{name.split("/")[2]: golden()[name] for name in golden() if name.startswith(f"{network.key}/{i}/")}
              for i in range(len(network.sizes))]
    names = differentiated(shapes)
    lengths = [len(range(0, size, step(size, KEPT_OF_GRADIENT))) for size in (np.prod(shapes[name]) for name in names)]
    parts = np.split(golden()[f"{network.key}/gradients"], np.cumsum(lengths)[:-1])
    return shapes, stages, dict(zip(names, parts, strict=True))


def build(network):
    """The shapes of ours, which need no initial values: every array comes from the source's names."""
    keras = network.library == "keras"
    config = ModelConfig(
        name=network.name, num_classes=CLASSES, image_size=network.sizes[0], aux=network.aux,
        pool="dense" if network.name.startswith("vgg") else "avg", flavour="keras" if keras else "torchvision",
        preprocessing=PREPROCESSING.get(network.name, "caffe" if keras else "imagenet"),
    )
    model = nnx.eval_shape(lambda: BackboneClassifier(config, rngs=nnx.Rngs(0)))
    model.eval()
    return model


def compute(model, x, gradients):
    """Every stage of images ``x``, and the gradients by path.

    The compiler's optimiser takes three quarters of the time and is left out: the operations are the same.
    """
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, x):
        model = nnx.merge(graph, params, rest)
        values = model.intermediates(x)
        total = optax.softmax_cross_entropy_with_integer_labels(values["logits"], LABELS).mean()
        if model.aux is not None:
            values["aux"] = model.training_logits(x)[1]
            total += 0.4 * optax.softmax_cross_entropy_with_integer_labels(values["aux"], LABELS).mean()
        return total, values

    run = jax.grad(loss, has_aux=True) if gradients else loss
    run = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    result, values = run(params, rest, jnp.asarray(x))
    if not gradients:
        return values, {}
    return values, {"/".join(map(str, path)): np.asarray(g[...]) for path, g in nnx.to_flat_state(result)}


def as_stored(gradients, shapes, rules):
    """Our gradients by the source's names, thinned: the key table moves marks as it moves weights."""
    result = {}
    for name in differentiated(shapes):
        # Keras' first layer without a name of its own has no number.
        path, transform = destination(re.sub(r"^(conv2d|batch_normalization)/", r"\1_0/", name), rules)
        size = int(np.prod(shapes[name]))
        ours = gradients[path].ravel()
        if transform is same:
            result[name] = thin(ours, KEPT_OF_GRADIENT)
            continue
        marks = np.zeros(size, np.uint16)
        kept = marks[:: step(size, KEPT_OF_GRADIENT)]
        kept[:] = np.arange(1, len(kept) + 1)
        marks = transform(marks.reshape(shapes[name])).ravel()
        places = np.flatnonzero(marks)
        result[name] = ours[places[np.argsort(marks[places])]]
    return result


@pytest.mark.parametrize(("key", "seed"), CASES)
def test_classifier(key, seed):
    network = NETWORKS[key]
    shapes, stages, gradients = expected(network, seed)
    load, rules = LIBRARIES[network.library]
    model = build(network)
    load(model, weights(shapes, seed))
    with jax.default_matmul_precision("highest"):
        for i, (size, theirs) in enumerate(zip(network.sizes, stages, strict=True)):
            ours, derivatives = compute(model, images(size, seed), gradients=i == 0)
            assert {"logits", "c5"} < set(theirs)
            for name, values in theirs.items():
                deviation = values.std()
                assert deviation > 1e-2, name
                np.testing.assert_allclose(thin(ours[name]), values, rtol=0, atol=TOLERANCE * deviation,
                                           err_msg=f"{name} at {size}")
            if i == 0:
                assert_gradients_close(as_stored(derivatives, shapes, rules(model.backbone)), gradients,
                                       large=key in SLOW)


def assert_gradients_close(ours, theirs, *, large):
    """Every layer, by the norm of the difference; of large images those above the first kink."""
    assert set(ours) == set(theirs)
    norms = {name: np.linalg.norm(values) for name, values in theirs.items()}
    assert min(norms.values()) > 1e-4
    errors = {name: np.linalg.norm(ours[name] - values) / norms[name] for name, values in theirs.items()}
    worst = sorted(errors.items(), key=lambda item: -item[1])[:5]
    assert worst[0][1] < (KINK_TOLERANCE if large else TOLERANCE), worst
    above = np.quantile(list(errors.values()), 0.1)
    assert above < TOLERANCE, above
