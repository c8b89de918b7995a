"""ROI Align: the gather and the einsum version, and torchvision's C++, forward and with the gradient of the features.

    python benchmarks/roi_align.py [--write] [--force] [--rounds N] [--channels 256] [--boxes 64 512]

All give the same values, which is checked too. The baseline is torchvision where it is installed with its C++
operators, the einsum version elsewhere. What wins on a backend belongs in ``wbcjax.ops.roi_align.default_method``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from common import Case, arguments, interleave, report

from wbcjax.ops.roi_align import roi_align

STRIDE = 8
OUTPUT = 7


def torchvision_operator(features, boxes):
    """(forward, forward and backward) of torchvision's operator, or None where it is not there."""
    try:
        import torch
        from torchvision.extension import _has_ops
        from torchvision.ops import roi_align as operator
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    if not _has_ops():
        return None
    features = torch.from_numpy(features).permute(2, 0, 1)[None].contiguous()
    rois = torch.cat([torch.zeros(len(boxes), 1), torch.from_numpy(boxes)], dim=1)
    pool = functools.partial(operator, boxes=rois, output_size=OUTPUT, spatial_scale=1 / STRIDE, sampling_ratio=2)

    def forward():
        with torch.no_grad():
            return pool(features)

    def backward():
        leaf = features.detach().requires_grad_()
        pool(leaf).square().sum().backward()
        return leaf.grad

    return forward, backward


def main():
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 512])
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    cases = []
    for height, width in ((240, 320), (480, 640)):
        features = rng.normal(size=(height // STRIDE, width // STRIDE, options.channels)).astype(np.float32)
        for n in options.boxes:
            corner = rng.uniform((0, 0), (0.8 * width, 0.8 * height), (n, 2))
            side = rng.uniform(20, 0.2 * width, (n, 2))
            boxes = np.concatenate([corner, np.minimum(corner + side, (width, height))], axis=1).astype(np.float32)
            forward, backward = {}, {}
            for method in ("gather", "einsum"):
                pool = functools.partial(roi_align, output_size=OUTPUT, stride=STRIDE, method=method)
                gradient = jax.grad(lambda f, b, pool=pool: jnp.square(pool(f, b)).sum())
                arrays = jnp.asarray(features), jnp.asarray(boxes)
                forward[method] = functools.partial(jax.jit(pool), *arrays)
                backward[method] = functools.partial(jax.jit(gradient), *arrays)
            if operator := torchvision_operator(features, boxes):
                forward["torchvision"], backward["torchvision"] = operator
            baseline = "torchvision" if operator else "einsum"
            name = f"{height}x{width}, {n} boxes"
            cases.append(Case(f"{name}, forward", interleave(forward, options.rounds), baseline, n, "boxes"))
            cases.append(Case(f"{name}, gradient", interleave(backward, options.rounds), baseline, n, "boxes"))
            np.testing.assert_allclose(forward["gather"](), forward["einsum"](), atol=1e-4)
            np.testing.assert_allclose(backward["gather"](), backward["einsum"](), atol=1e-3)
            if operator:
                theirs = forward["torchvision"]().permute(0, 2, 3, 1).numpy()
                np.testing.assert_allclose(forward["gather"](), theirs, atol=1e-4)
    report("roi_align", cases, options)


if __name__ == "__main__":
    main()
