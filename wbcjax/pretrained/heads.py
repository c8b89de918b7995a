"""Published classifiers into ours: a backbone, and as much of the head as both have and is wanted."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from wbcjax.errors import CheckpointError
from wbcjax.models.backbone import Backbone
from wbcjax.models.backbone_classifier import BackboneClassifier
from wbcjax.models.inception import EPSILON as INCEPTION_EPSILON
from wbcjax.models.inception import InceptionV3
from wbcjax.models.norms import EPSILON
from wbcjax.pretrained.key_table import Rule, destination, fill

PREDICTORS = "classifier/.*|aux/logits/.*"
"""Our paths of the layers whose outputs are classes."""
EXTRAS = ("hidden/.*", "aux/.*")
"""Of the dense layers of VGG16 and of the auxiliary head of InceptionV3, which a network may have or not."""


def fill_classifier(
    model: BackboneClassifier, source: Mapping[str, np.ndarray], rules: Sequence[Rule], where: str, head: bool
) -> None:
    """``fill`` with the rules of a whole classifier; an auxiliary head that ``model`` has not is ignored.

    Without ``head`` the layers whose outputs are classes keep their values. Dense layers and the rest of an auxiliary
    head are filled where both have them, ignored where only the source does, and kept where only the model does.

    Raises:
      CheckpointError: as ``fill``, and if the source has dense layers that are wanted and have no place.
    """
    found = (destination(name, rules) for name in source)
    theirs = {path for path, _ in filter(None, found) if path}
    ours = {"hidden/.*": len(model.hidden) > 0, "aux/.*": getattr(model, "aux", None) is not None}
    there = {extra: any(re.fullmatch(extra, path) for path in theirs) for extra in EXTRAS}
    if head and there["hidden/.*"] and not ours["hidden/.*"]:
        raise CheckpointError(f"{where}: its head has two dense layers, this model's has none: set model.pool to "
                              "dense, or load it without its head")
    ignored = [] if ours["aux/.*"] else ["aux/.*"]
    kept = []
    if not head:
        ignored += [PREDICTORS, *(extra for extra in EXTRAS if not ours[extra])]
        kept += [PREDICTORS, *(extra for extra in EXTRAS if not there[extra])]
    if ignored:
        rules = [dataclasses.replace(rule, path=None) if rule.path and re.fullmatch("|".join(ignored), rule.path)
                 else rule for rule in rules]
    fill(model, source, rules, where, "|".join(kept) or None)


def require_flavour(backbone: Backbone, flavour: str, where: str) -> None:
    """Refuse a backbone that computes something else with these weights.

    Raises:
      CheckpointError: if published networks differ and the backbone follows the other one.
    """
    if backbone.flavour not in (None, flavour):
        raise CheckpointError(f"{where}: weights for the network as {flavour} has it: set model.flavour to {flavour}")


def epsilon_of(backbone: Backbone) -> float:
    """What its batch norms add to the variance."""
    return INCEPTION_EPSILON if isinstance(backbone, InceptionV3) else EPSILON


def with_epsilon(
    state: Mapping[str, np.ndarray], epsilon: float, ours: float, *, var: str = "running_var", scale: str = "weight"
) -> dict[str, np.ndarray]:
    """The state with scales of batch norms changed so that adding ``ours`` is as adding ``epsilon`` was.

    Not the variances: some are far smaller than ``ours`` and would lose their digits.

    Args:
      var: how names of variances end.
      scale: how names of scales do.
    """
    result = dict(state)
    if epsilon == ours:
        return result
    for name, variance in state.items():
        theirs = name.removesuffix(var) + scale
        if name.endswith(var) and theirs in state:
            variance = variance.astype(np.float64)
            result[theirs] = (state[theirs] * np.sqrt((variance + ours) / (variance + epsilon))).astype(np.float32)
    return result
