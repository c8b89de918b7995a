"""Non-maximum suppression: the jitted fixed point against a greedy NumPy loop and torchvision's C++.

    python benchmarks/nms.py [--write] [--force] [--rounds N]

All give the same boxes, which is checked too. The greedy loop, the baseline, takes one box a step and compares it with
all that are left at once; torchvision takes part where it is installed with its C++ operators.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from common import Case, arguments, interleave, report

from wbcjax.ops.boxes import pairwise_iou
from wbcjax.ops.nms import nms

THRESHOLD = 0.7
"""Of the region proposals."""


def greedy(boxes, scores):
    """Keep the best box, drop what it overlaps, go on with the rest."""
    keep, left = np.zeros(len(boxes), bool), np.argsort(-scores, kind="stable")
    while len(left):
        best, left = left[0], left[1:]
        keep[best] = True
        left = left[pairwise_iou(boxes[best : best + 1], boxes[left])[0] <= THRESHOLD]
    return keep


def torchvision_nms(boxes, scores):
    """torchvision's operator on these boxes, or None where it is not there."""
    try:
        import torch
        from torchvision.ops import nms as operator
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    return functools.partial(operator, torch.from_numpy(boxes), torch.from_numpy(scores), THRESHOLD)


def proposals(rng, n, cells):
    """Boxes scattered around ``cells`` cells of 640 × 480, as a trained region proposal network gives them."""
    centre = rng.uniform((60, 60), (580, 420), (cells, 2))[rng.integers(cells, size=n)] + rng.normal(0, 12, (n, 2))
    half = rng.uniform(25, 75, (n, 1)) * rng.uniform(0.8, 1.25, (n, 2))
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32), rng.random(n, np.float32)


def main():
    options = arguments(__doc__.splitlines()[0]).parse_args()
    rng = np.random.default_rng(0)
    on_device = jax.jit(functools.partial(nms, iou_threshold=THRESHOLD))
    cases = []
    for n, cells in ((100, 3), (1000, 3), (1000, 20), (2000, 20)):
        boxes, scores = proposals(rng, n, cells)
        arguments_ = jnp.asarray(boxes), jnp.asarray(scores), jnp.ones(n, bool)
        candidates = {
            "greedy, NumPy": functools.partial(greedy, boxes, scores),
            "nms, jitted": functools.partial(on_device, *arguments_),
        }
        if operator := torchvision_nms(boxes, scores):
            candidates["torchvision"] = operator
        timing = interleave(candidates, options.rounds)
        expected = greedy(boxes, scores)
        np.testing.assert_array_equal(on_device(*arguments_), expected)
        if operator:
            np.testing.assert_array_equal(np.sort(operator().numpy()), np.flatnonzero(expected))
        cases.append(Case(f"{n} boxes, {cells} cells", timing, "greedy, NumPy", n, "boxes"))
    report("nms", cases, options)


if __name__ == "__main__":
    main()
