"""What every configuration shares: checks on construction, and the way to JSON and back."""

import dataclasses
import hashlib
import json
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from wbcjax.config.values import convert, describe
from wbcjax.errors import ConfigError

T = TypeVar("T")


def require(condition: bool, field_name: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{field_name} = {value!r} is impossible: expected {expected}")


def require_choices(config: Any, prefix: str = "") -> None:
    """Every field that is a choice has one of its values, from Python too, where no parser looked."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal:
            value = getattr(config, name)
            require(value in get_args(hint), prefix + name, value, describe(hint))


def to_dict(config: Any) -> dict:
    """Nested plain dict of a config: JSON-ready, paths as text."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_dict(cls: type[T], values: dict) -> T:
    """Build config ``cls`` from a nested dict as JSON holds it.

    Raises:
      ConfigError: for an unknown field, naming it and the fields there are, or an impossible value.
    """
    return convert(cls, values, "")


def fingerprint(config: Any) -> str:
    """Twelve hex digits that change whenever a field does; names caches, runs and finished stages."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]
