"""Early stopping: which evaluation counts, its weights, and how long ago it was."""

import math

import jax
import jax.numpy as jnp


class EarlyStopping:
    """Keeps the weights of the lowest validation loss, and says when to give up.

    With ``patience`` None it keeps only the metrics of the latest evaluation, and never gives up.

    Attributes:
      weights: copies of the best (params, stats); those at the start before any evaluation; empty without patience.
      metrics: of the evaluation with these weights.
      waited: evaluations since then.
    """

    def __init__(self, patience: int | None, weights: tuple[dict, dict]):
        self.patience = patience
        self.weights = () if patience is None else _copy(weights)
        self.metrics: dict[str, float] = {}
        self.waited = 0

    def update(self, metrics: dict[str, float], weights: tuple[dict, dict]) -> None:
        """Take note of an evaluation; ``metrics`` hold ``valid_loss``."""
        self.waited += 1
        if self.patience is None or metrics["valid_loss"] < self.metrics.get("valid_loss", math.inf):
            self.metrics, self.waited = metrics, 0
            self.weights = () if self.patience is None else _copy(weights)

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` evaluations in a row were no better."""
        return self.patience is not None and self.waited >= self.patience


def _copy(weights: tuple[dict, dict]) -> tuple[dict, dict]:
    """Buffers of their own: the training step donates, and so destroys, those of its state."""
    return jax.tree.map(jnp.copy, weights)
