"""Boxes of the second stage: sampling, losses by hand, detections against a greedy loop, order of the features."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import BoxHeadConfig
from wbcjax.models.box_head import (
    BoxHead,
    BoxSample,
    box_losses,
    positives,
    sample_proposals,
    select_boxes,
)
from wbcjax.models.rpn import Proposals
from wbcjax.ops import boxes as box_ops
from wbcjax.typing_detection import Instances

CONFIG = BoxHeadConfig(pool=2, hidden=8, sample=12, positive_fraction=0.5, max_detections=6)
SIZE = np.array([40, 60], np.int32)
KEY = jax.random.key(0)

PROPOSALS = np.array([
    [10, 10, 30, 30],  # the first object
    [12, 10, 32, 30],  # IoU 0.82 with it
    [10, 10, 20, 30],  # exactly 0.5
    [10, 10, 19, 30],  # 0.45
    [40, 5, 55, 20],  # the second object, not valid
    [41, 5, 55, 20],  # 0.93 with it
    [0, 0, 0, 0],
], np.float32)
VALID = np.array([1, 1, 1, 1, 0, 1, 0], bool)
TRUTH = np.array([[10, 10, 30, 30], [40, 5, 55, 20], [0, 0, 0, 0]], np.float32)

draw = jax.jit(sample_proposals, static_argnums=3)
select = jax.jit(select_boxes, static_argnums=4)


def proposals(boxes=PROPOSALS, valid=VALID):
    return Proposals(jnp.asarray(boxes), jnp.ones(len(boxes)), jnp.asarray(valid))


def truth(boxes=TRUTH, labels=(0, 2, 1), valid=(True, True, False)):
    return Instances(jnp.asarray(boxes), jnp.asarray(labels), jnp.asarray(valid), jnp.zeros((len(boxes), 1, 1)))


def test_every_proposal_and_true_box_is_sampled_once_and_labelled():
    sample = jax.tree.map(np.asarray, draw(KEY, proposals(), truth(), CONFIG))
    expected = {  # box: label, true object
        (10, 10, 30, 30): (1, 0), (12, 10, 32, 30): (1, 0), (10, 10, 20, 30): (1, 0), (10, 10, 19, 30): (0, 0),
        (41, 5, 55, 20): (3, 1), (40, 5, 55, 20): (3, 1),
    }
    assert sample.valid.sum() == 7  # five valid proposals and two true boxes
    np.testing.assert_array_equal(sample.valid, np.arange(12) < 7)
    np.testing.assert_array_equal(sample.positive, np.arange(12) < 6)
    for box, label, slot, positive in zip(sample.boxes[:7], sample.labels, sample.truth, sample.positive,
                                          strict=False):
        assert (label, slot) == expected[tuple(box.astype(int).tolist())]
        assert positive == (label > 0)
    decoded = box_ops.decode(sample.deltas[:6], sample.boxes[:6], CONFIG.delta_weights)
    np.testing.assert_allclose(decoded, TRUTH[sample.truth[:6]], atol=1e-4)
    assert not sample.boxes[7:].any()
    assert not sample.labels[6:].any()


def test_positives_are_at_most_their_share_and_fill_the_first_slots():
    config = replace(CONFIG, sample=4, positive_fraction=0.5)
    sample = jax.tree.map(lambda x: np.asarray(x)[None], draw(KEY, proposals(), truth(), config))
    np.testing.assert_array_equal(sample.positive[0], [1, 1, 0, 0])
    np.testing.assert_array_equal(sample.valid[0], [1, 1, 1, 0])  # one negative alone is there
    chosen = positives(sample, config)
    assert chosen.boxes.shape == (1, 2, 4)
    assert chosen.positive.all()


def test_without_truth_all_proposals_are_background():
    sample = draw(KEY, proposals(), truth(valid=(False, False, False)), CONFIG)
    assert int(sample.valid.sum()) == VALID.sum()
    assert not np.asarray(sample.positive).any()
    assert np.isfinite(sample.deltas).all()


def test_padding_changes_nothing():
    boxes = np.concatenate([TRUTH, [[5, 5, 30, 30]] * 5]).astype(np.float32)
    junk = truth(boxes, [0, 2, 1] + [2] * 5, [True, True] + [False] * 6)
    padded, plain = draw(KEY, proposals(), junk, CONFIG), draw(KEY, proposals(), truth(), CONFIG)
    jax.tree.map(np.testing.assert_array_equal, padded, plain)


def test_losses_by_hand():
    rng = np.random.default_rng(0)
    logits, deltas = (rng.normal(size=(2, 4, 3, *rest)).astype(np.float32) for rest in ((), (4,)))
    labels = np.array([[2, 1, 0, 0], [1, 0, 0, 0]])
    valid = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    targets = rng.normal(size=(2, 4, 4)).astype(np.float32)
    sample = BoxSample(jnp.zeros((2, 4, 4)), jnp.asarray(valid), jnp.asarray(labels > 0), jnp.zeros((2, 4), int),
                       jnp.asarray(labels), jnp.asarray(targets))
    classes = boxes = 0
    for i, j in zip(*np.nonzero(valid), strict=True):
        classes -= logits[i, j, labels[i, j]] - np.log(np.exp(logits[i, j]).sum())
        if labels[i, j]:
            error = np.abs(deltas[i, j, labels[i, j]] - targets[i, j])
            boxes += np.where(error < 1 / 9, 4.5 * error**2, error - 1 / 18).sum()
    found = jax.jit(box_losses)(logits, deltas, sample)
    np.testing.assert_allclose(found, [classes / 5, boxes / 5], rtol=1e-5)


def test_an_empty_sample_has_no_loss_and_no_gradient():
    sample = draw(KEY, proposals(valid=np.zeros(7, bool)), truth(valid=(False, False, False)), CONFIG)
    sample = jax.tree.map(lambda x: x[None], sample)
    heads = jnp.ones((1, 12, 4)), jnp.ones((1, 12, 4, 4))
    value, gradient = jax.value_and_grad(lambda heads: sum(box_losses(*heads, sample)))(heads)
    assert float(value) == 0
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(gradient))


def greedy(logits, deltas, boxes, valid, config):
    """torchvision's ``postprocess_detections`` as a loop: (score, label, box) of what remains."""
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = []
    for label in range(logits.shape[1] - 1):
        decoded = box_ops.clip(box_ops.decode(deltas[:, label + 1], boxes, config.delta_weights), SIZE)
        kept = []
        for i in np.argsort(-scores[:, label + 1], kind="stable"):
            good = scores[i, label + 1] > config.score_threshold and box_ops.large_enough(decoded[i], 1e-2)
            if valid[i] and good and all(box_ops.paired_iou(decoded[i], decoded[j]) <= config.nms_iou for j in kept):
                kept.append(i)
        found += [(scores[i, label + 1], label, decoded[i]) for i in kept]
    return sorted(found, key=lambda entry: -entry[0])[: config.max_detections]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, max_detections=100, nms_iou=0.2, score_threshold=0.2)])
def test_detections_are_those_of_a_greedy_loop(seed, config):
    rng = np.random.default_rng(seed)
    logits, deltas = (rng.normal(size=(20, 4, *rest)).astype(np.float32) for rest in ((), (4,)))
    corner = rng.random((20, 2)) * 40
    boxes = np.concatenate([corner, corner + 5 + rng.random((20, 2)) * 30], axis=1).astype(np.float32)
    valid = rng.random(20) < 0.8
    expected = greedy(logits, deltas, boxes, valid, config)
    found = jax.tree.map(np.asarray, select(logits, deltas, proposals(boxes, valid), SIZE, config))
    assert found.boxes.shape == (config.max_detections, 4)
    np.testing.assert_array_equal(found.valid, np.arange(config.max_detections) < len(expected))
    scores, labels, boxes = zip(*expected, strict=True)
    np.testing.assert_allclose(found.scores[found.valid], scores, rtol=1e-5)
    np.testing.assert_array_equal(found.labels[found.valid], labels)
    np.testing.assert_allclose(found.boxes[found.valid], boxes, rtol=1e-5, atol=1e-4)
    for field in (found.boxes, found.scores, found.labels):
        assert not field[~found.valid].any()


def test_features_are_flattened_by_row_column_channel():
    head = BoxHead(CONFIG, 3, 1, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    features = np.random.default_rng(0).normal(size=(5, 2, 2, 3)).astype(np.float32)
    hidden = features.reshape(5, 12)
    for layer in (head.fc6, head.fc7):
        hidden = np.maximum(hidden @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    logits, deltas = head(jnp.asarray(features))
    assert (logits.shape, deltas.shape) == ((5, 2), (5, 2, 4))
    np.testing.assert_allclose(logits, hidden @ np.asarray(head.logits.kernel[...]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(deltas.reshape(5, 8), hidden @ np.asarray(head.deltas.kernel[...]), rtol=1e-4, atol=1e-6)


def test_half_precision_ends_in_float32():
    head = BoxHead(CONFIG, 3, 1, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    features = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 2, 3)), jnp.bfloat16)
    assert {x.dtype for x in head(features)} == {jnp.dtype("float32")}
