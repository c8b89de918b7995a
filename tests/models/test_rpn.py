"""Region proposals: order of the anchors, selection against a greedy loop, losses by hand, padding."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import RPNConfig
from wbcjax.models.rpn import RPNHead, level_anchors, propose, rpn_losses
from wbcjax.ops import boxes as box_ops

CONFIG = RPNConfig(anchor_scales=(2.0,), aspect_ratios=(0.5, 1.0), sample=1000, pre_nms=20, post_nms=12)
LEVELS, CANVAS, SHAPES = (3, 4), (48, 64), ((6, 8), (3, 4))
ANCHORS = level_anchors(CONFIG, LEVELS, CANVAS, SHAPES)
SIZE = np.array([40, 60], np.int32)
KEY = jax.random.key(0)

proposals_of = jax.jit(lambda logits, deltas, size, config: propose(logits, deltas, ANCHORS, size, config),
                       static_argnums=3)
losses_of = jax.jit(lambda *args: rpn_losses(KEY, *args[:2], np.concatenate(ANCHORS), *args[2:]), static_argnums=4)


def random_head(seed, scale=0.5):
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=len(a)).astype(np.float32) for a in ANCHORS]
    return logits, [(scale * rng.normal(size=(len(a), 4))).astype(np.float32) for a in ANCHORS]


def greedy(logits, deltas, size, config):
    """torchvision's ``filter_proposals`` as a loop: boxes and scores that remain."""
    found = []
    for level, anchors in enumerate(ANCHORS):
        boxes = box_ops.clip(box_ops.decode(deltas[level], anchors), size)
        kept = []
        for i in np.argsort(-logits[level], kind="stable")[: config.pre_nms]:
            if not box_ops.large_enough(boxes[i], config.min_size):
                continue
            if all(box_ops.paired_iou(boxes[i], boxes[j]) <= config.nms_iou for j in kept):
                kept.append(i)
        found += [(1 / (1 + np.exp(-logits[level][i])), boxes[i]) for i in kept]
    found = sorted(found, key=lambda pair: -pair[0])[: config.post_nms]
    return np.array([box for _, box in found]), np.array([score for score, _ in found])


def test_anchors_have_their_levels_size_and_the_canvas_stride():
    assert [len(a) for a in ANCHORS] == [6 * 8 * 2, 3 * 4 * 2]
    for anchors, level in zip(ANCHORS, LEVELS, strict=True):
        np.testing.assert_allclose(np.sqrt(box_ops.area(anchors)), 2 * 2**level, rtol=0.1)
        np.testing.assert_allclose(anchors[2, :2] - anchors[0, :2], [2**level, 0])
    # A pooled level of an odd number of rows: torchvision's stride is the canvas by the rows, rounded down.
    coarse = level_anchors(CONFIG, (6,), (480, 640), [(8, 10)])[0]
    np.testing.assert_allclose(coarse[20, :2] - coarse[0, :2], [0, 60])


def test_outputs_follow_rows_columns_anchors():
    head = RPNHead(3, 2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    identity = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    head.conv.kernel[...] = identity
    head.logits.kernel[...] = jnp.zeros((1, 1, 3, 2)).at[0, 0, :2].set(jnp.array([[1.0, 1.0], [0.0, 100.0]]))
    head.deltas.kernel[...] = jnp.zeros((1, 1, 3, 8)).at[0, 0, 0].set(1.0)
    head.deltas.bias[...] = jnp.arange(8.0) * 1000
    place = jnp.arange(12.0).reshape(1, 3, 4)
    logits, deltas = head([jnp.stack([place, jnp.ones_like(place), place], axis=-1)])
    np.testing.assert_allclose(logits[0][0], [p + 100 * a for p in range(12) for a in range(2)], rtol=1e-6)
    expected = [[p + 1000 * (4 * a + k) for k in range(4)] for p in range(12) for a in range(2)]
    np.testing.assert_allclose(deltas[0][0], expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, pre_nms=5000, post_nms=200, nms_iou=0.3, min_size=9.0)])
def test_selection_is_that_of_a_greedy_loop(seed, config):
    logits, deltas = random_head(seed)
    boxes, scores = greedy(logits, deltas, SIZE, config)
    found = jax.tree.map(np.asarray, proposals_of(logits, deltas, SIZE, config))
    assert found.boxes.shape == (config.post_nms, 4)
    np.testing.assert_array_equal(found.valid, np.arange(config.post_nms) < len(boxes))
    np.testing.assert_allclose(found.boxes[found.valid], boxes, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.scores[found.valid], scores, rtol=1e-5)
    assert not found.boxes[~found.valid].any()
    assert not found.scores[~found.valid].any()


def test_proposals_have_no_gradient():
    logits, deltas = random_head(0)
    total = lambda head: proposals_of(*head, SIZE, CONFIG).boxes.sum()  # noqa: E731
    gradient = jax.grad(total)((logits, deltas))
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(gradient))


def losses_by_hand(logits, deltas, boxes):
    """All anchors of one image in the loss, none of the negatives left out."""
    anchors = np.concatenate(ANCHORS)
    iou = box_ops.pairwise_iou(boxes, anchors)
    foreground = (iou.max(0) >= CONFIG.foreground_iou) | ((iou == iou.max(1, keepdims=True)) & (iou > 0)).any(0)
    background = (iou.max(0) < CONFIG.background_iou) & ~foreground
    used = foreground | background
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    objectness = -np.where(foreground, np.log(p), np.log(1 - p))[used].sum()
    error = np.abs(deltas - box_ops.encode(boxes[iou.argmax(0)], anchors))[foreground]
    box = np.where(error < 1 / 9, 4.5 * error**2, error - 1 / 18).sum()
    return objectness, box, used.sum(), foreground.sum()


def test_losses_by_hand():
    boxes = np.array([[[3, 4, 20, 30], [30, 10, 44, 22]], [[0, 0, 60, 40], [20, 20, 24, 28]]], np.float32)
    heads = [random_head(seed, scale=0.1) for seed in (0, 1)]
    logits = np.stack([np.concatenate(logits) for logits, _ in heads])
    deltas = np.stack([np.concatenate(deltas) for _, deltas in heads])
    parts = [losses_by_hand(*args) for args in zip(logits, deltas, boxes, strict=True)]
    objectness, box, used, positive = np.sum(parts, axis=0)
    assert positive >= 4
    assert used < logits.size
    found = losses_of(logits, deltas, boxes, np.ones((2, 2), bool), replace(CONFIG, positive_fraction=1.0))
    np.testing.assert_allclose(found, [objectness / used, box / used], rtol=1e-5)


def test_the_sample_bounds_the_anchors_of_an_image():
    """With one positive among four, the mean loss of logits that say "background" is a quarter of the positive's."""
    logits = np.full((1, sum(map(len, ANCHORS))), -20.0, np.float32)
    deltas = np.zeros((*logits.shape, 4), np.float32)
    boxes = np.array([[[0, 0, 30, 30]]], np.float32)
    config = replace(CONFIG, sample=4, positive_fraction=0.25)
    objectness, _ = losses_of(logits, deltas, boxes, np.ones((1, 1), bool), config)
    assert float(objectness) == pytest.approx(20 / 4, rel=1e-5)


@pytest.mark.parametrize("slots", [1, 6])
def test_without_truth_there_is_no_box_loss(slots):
    logits, deltas = (np.concatenate(x)[None] for x in random_head(0))
    found = losses_of(logits, deltas, np.zeros((1, slots, 4), np.float32), np.zeros((1, slots), bool), CONFIG)
    assert float(found[0]) == pytest.approx(np.log1p(np.exp(logits.astype(np.float64))).mean(), rel=1e-5)
    assert float(found[1]) == 0
