"""Weights of another library into a module of ours, by a table: its name, our path, and how the array is turned.

The table must account for everything: every array of the module is filled, every name of the source is used or ignored
by a rule. What does not fit is reported at once, not at the first difference.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx

from wbcjax.errors import CheckpointError

SHOWN = 20
"""Weights of quite another model differ everywhere; so many lines say that as well."""

Transform = Callable[[np.ndarray], np.ndarray]


def same(array: np.ndarray) -> np.ndarray:
    """As it is."""
    return array


@dataclass(frozen=True)
class Rule:
    """What becomes of the source's names that match ``pattern`` as a whole."""

    pattern: str
    path: str | None
    """Ours, joined by "/", with references to the pattern's groups (``\\\\1``); None ignores the names."""
    transform: Transform = same


def fill(
    module: nnx.Module, source: Mapping[str, np.ndarray], rules: Sequence[Rule], where: str, kept: str | None = None
) -> None:
    """Set every parameter and statistic of ``module`` from ``source``; if anything is wrong, it is left as it was.

    Args:
      module: a module, or only its shapes, from ``nnx.eval_shape``, which then need no initial values.
      rules: the first that matches a name decides.
      where: the source, for messages.
      kept: pattern of our paths that keep their values.

    Raises:
      CheckpointError: naming every array that is missing, left over, there twice, not finite, or of another shape.
    """
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    variables = {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
    variables = {path: variable for path, variable in variables.items() if not (kept and re.fullmatch(kept, path))}
    arrays = convert(source, rules, {path: variable.get_value().shape for path, variable in variables.items()}, where)
    for path, variable in variables.items():
        variable.set_value(jnp.asarray(arrays[path], variable.get_value().dtype))
    nnx.update(module, state)


def destination(name: str, rules: Sequence[Rule]) -> tuple[str | None, Transform] | None:
    """Our path (None for a name to ignore) and the transform for a name of the source; None if no rule knows it."""
    for rule in rules:
        if match := re.fullmatch(rule.pattern, name):
            return match.expand(rule.path) if rule.path else None, rule.transform
    return None


def convert(
    source: Mapping[str, np.ndarray], rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, np.ndarray]:
    """The source's arrays under our paths, for exactly the paths of ``shapes``; errors as ``fill``."""
    arrays, origin, problems = {}, {}, []
    for name, array in source.items():
        found = destination(name, rules)
        if found is None:
            problems.append(f"{name} {array.shape} is no name of this architecture")
            continue
        path, transform = found
        if path is None:
            continue
        if path not in shapes:
            problems.append(f"{name} {array.shape} has no place: the model has no {path}")
        elif path in arrays:
            problems.append(f"{name} and {origin[path]} are both for {path}")
        else:
            origin[path], arrays[path] = name, _transformed(transform, array)
            if arrays[path] is None or arrays[path].shape != shapes[path]:
                problems.append(f"{name} {array.shape} does not fit {path}, which is {shapes[path]} here")
            elif not np.isfinite(array).all():
                problems.append(f"{name} has values that are not finite")
    problems += [f"nothing for {path} {shape}" for path, shape in shapes.items() if path not in arrays]
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        lines = "".join(f"\n  {line}" for line in problems[:SHOWN] + more)
        raise CheckpointError(f"{where}: weights of another model; configure the one that they were made for:{lines}")
    return arrays


def _transformed(transform: Transform, array: np.ndarray) -> np.ndarray | None:
    """None where the array has another rank or size than the transform is for."""
    try:
        return transform(array)
    except (ValueError, IndexError):
        return None


def conv(array: np.ndarray) -> np.ndarray:
    """A convolution's kernel from PyTorch: (out, in, height, width) to (height, width, in, out)."""
    return array.transpose(2, 3, 1, 0)


def linear(array: np.ndarray) -> np.ndarray:
    """A dense layer's kernel from PyTorch: (out, in) to (in, out)."""
    return array.transpose(1, 0)
