"""Names of Keras' InceptionV3, whose layers are called ``conv2d``, ``conv2d_1`` and so on in order of creation.

The numbers go on where an earlier model of the same process ended, so only their order counts. The batch norms have
no scale; ours are ones then.
"""

import re
from collections.abc import Mapping

import numpy as np

from wbcjax.errors import CheckpointError
from wbcjax.models.inception import BLOCKS, STEM
from wbcjax.pretrained.key_table import Rule

CONVS = (*STEM, *(f"{block}/{branch}" for block, branches in BLOCKS.items() for branch in branches))
"""Our paths of the convolutions in the order in which Keras creates them, a batch norm after each."""

NAME = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?/(?:.*/)?(kernel|beta|moving_mean|moving_variance)(?::0)?")


def inception_rules(path: str = "") -> list[Rule]:
    """Rules of InceptionV3 without its classifier, for the arrays of ``canonical``; our paths start with ``path``."""
    parts = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    rules = []
    for number, ours in enumerate(CONVS):
        rules.append(Rule(f"conv2d_{number}/kernel", f"{path}{ours}/conv/kernel"))
        rules += [Rule(f"batch_normalization_{number}/{theirs}", f"{path}{ours}/bn/{part}")
                  for theirs, part in parts.items()]
    return rules


def canonical(source: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The source with its convolutions and batch norms numbered from 0, as ``conv2d_0/kernel``, and scales of ones.

    Other names, such as those of the classifier, stay as they are.

    Args:
      where: the source, for messages.

    Raises:
      CheckpointError: if it has not 94 convolutions and as many batch norms.
    """
    matches = {name: match for name in source if (match := NAME.fullmatch(name))}
    arrays = {name: array for name, array in source.items() if name not in matches}
    for kind in ("conv2d", "batch_normalization"):
        numbers = sorted({int(match[2] or 0) for match in matches.values() if match[1] == kind})
        if len(numbers) != len(CONVS):
            raise CheckpointError(f"{where}: {len(numbers)} layers are called {kind}, with or without a number, where "
                                  f"InceptionV3 of Keras has {len(CONVS)}: weights of another model; configure the "
                                  "one that they were made for")
        rank = {number: i for i, number in enumerate(numbers)}
        for name, match in matches.items():
            if match[1] == kind:
                arrays[f"{kind}_{rank[int(match[2] or 0)]}/{match[3]}"] = source[name]
    for number in range(len(CONVS)):
        beta = arrays.get(f"batch_normalization_{number}/beta")
        if beta is not None:
            arrays[f"batch_normalization_{number}/gamma"] = np.ones_like(beta)
    return arrays
