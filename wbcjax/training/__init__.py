"""Training: one loop for every model, its state, optimisers, checkpoints and writers."""

from wbcjax.training.checkpoint import Checkpoints
from wbcjax.training.classifier import classification_loss, evaluator, predict_function, predict_logits
from wbcjax.training.loop import FitResult, fit
from wbcjax.training.mesh import data_mesh
from wbcjax.training.state import merge, split

__all__ = ["Checkpoints", "FitResult", "classification_loss", "data_mesh", "evaluator", "fit", "merge",
           "predict_function", "predict_logits", "split"]
