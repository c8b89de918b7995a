"""IoU of whole sets: one vectorised call against plain loops over pairs of boxes.

    python benchmarks/iou.py [--write] [--force] [--rounds N]

All candidates give the same figures, which is checked too. The baseline is the faster of two plain loops: it turns
each image's boxes into Python numbers. ``best_iou`` starts from the same lists of arrays, one or two an image, and
spends nearly all its time on gathering them; ``padded`` starts from arrays that were gathered before.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from common import Case, arguments, interleave, report

from wbcjax.evaluation.iou import best_iou, pad, padded_best_iou


def plain_loop(predicted, true):
    """Minima and maxima of Python numbers, pair by pair."""
    values = []
    for p_boxes, t_boxes in zip(predicted, true, strict=True):
        best = 0.0
        t_list = t_boxes.tolist()
        for px1, py1, px2, py2 in p_boxes.tolist():
            for tx1, ty1, tx2, ty2 in t_list:
                width = min(px2, tx2) - max(px1, tx1)
                height = min(py2, ty2) - max(py1, ty1)
                if width > 0 and height > 0:
                    overlap = width * height
                    iou = overlap / ((px2 - px1) * (py2 - py1) + (tx2 - tx1) * (ty2 - ty1) - overlap)
                    if iou > best:
                        best = iou
        values.append(best)
    return values


def loop_over_arrays(predicted, true):
    """The same with a function of two boxes, each a NumPy array."""

    def iou(p, t):
        width = max(0.0, min(p[2], t[2]) - max(p[0], t[0]))
        height = max(0.0, min(p[3], t[3]) - max(p[1], t[1]))
        overlap = width * height
        return overlap / ((p[2] - p[0]) * (p[3] - p[1]) + (t[2] - t[0]) * (t[3] - t[1]) - overlap)

    return [max(iou(p, t) for p in p_boxes for t in t_boxes) for p_boxes, t_boxes in zip(predicted, true, strict=True)]


def boxes(rng, counts):
    """Random boxes in a 640x480 image, ``counts[i]`` for image i."""
    corner = rng.uniform((0, 0), (480, 320), (counts.sum(), 2))
    size = rng.uniform(60, 160, corner.shape)
    return np.split(np.concatenate([corner, corner + size], axis=1).astype(np.float32), np.cumsum(counts)[:-1])


def main():
    options = arguments(__doc__.splitlines()[0]).parse_args()
    rng = np.random.default_rng(0)
    cases = []
    for name, images, n_predicted, n_true in (
        ("364 images, 1 x 1-2 boxes", 364, (1, 1), (1, 2)),  # colour ROI on BCCD
        ("12,444 images, 1 x 1-2 boxes", 12_444, (1, 1), (1, 2)),  # colour ROI on blood-cells
        ("364 images, 20 x 8-19 boxes", 364, (20, 20), (8, 19)),  # a detector of all cells on BCCD
    ):
        predicted = boxes(rng, rng.integers(n_predicted[0], n_predicted[1] + 1, images))
        true = boxes(rng, rng.integers(n_true[0], n_true[1] + 1, images))
        arrays = (*pad(predicted), *pad(true))
        device = [jnp.asarray(array) for array in arrays]
        on_device = jax.jit(padded_best_iou)
        candidates = {
            "plain loop": functools.partial(plain_loop, predicted, true),
            "plain loop over arrays": functools.partial(loop_over_arrays, predicted, true),
            "best_iou": functools.partial(best_iou, predicted, true),
            "padded, NumPy": functools.partial(padded_best_iou, *arrays),
            "padded, jitted JAX": functools.partial(on_device, *device),
        }
        expected = plain_loop(predicted, true)
        timing = interleave(candidates, options.rounds)
        for call in candidates.values():
            np.testing.assert_allclose(call(), expected, rtol=1e-4, atol=1e-6)
        cases.append(Case(name, timing, "plain loop", images))
    report("iou", cases, options)


if __name__ == "__main__":
    main()
