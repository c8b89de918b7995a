"""Images in the order of a score, where equal scores count as one step: what figures over thresholds are made of.

A threshold cannot part images of equal score, so no figure here depends on the order in which they are given. Weights
come as ``(samples, n)``, how often each image stands in each bootstrap sample.
"""

import numpy as np
from jaxtyping import Float


def steps(
    scores: Float[np.ndarray, "n"], *weights: Float[np.ndarray, "samples n"]
) -> tuple[Float[np.ndarray, "samples k"], ...]:
    """Summed weights of the images of each different score, by rising score."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    return tuple(np.add.reduceat(weight[:, order], starts, axis=1) for weight in weights)
