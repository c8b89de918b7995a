"""Plain JSON values checked against the type hints of configuration fields, with errors that say what was expected."""

import dataclasses
import sys
import types
import typing
from pathlib import Path
from typing import Any

from wbcjax.errors import ConfigError

_WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path as text",
    type(None): "null",
}


def convert(hint: Any, value: Any, where: str) -> Any:
    """``value``, as JSON holds it, as the type that ``hint`` asks for.

    A list becomes a tuple, text a path, a whole number a float where one is wanted, and a table the dataclass.

    Args:
      hint: int, float, bool, str, Path, None, Literal, tuple, a union of these, or a dataclass of such fields.
      where: dotted name of the field, for the message; "" at the top.

    Raises:
      ConfigError: naming the field, its value and what was expected; for a table, an unknown field and the known ones.
    """
    if dataclasses.is_dataclass(hint):
        return _table(hint, value, where)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        fitting = [option for option in options if _fits(option, value)]
        if fitting:
            return convert(fitting[0], value, where)
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [options[0]] * len(value) if options[-1] is Ellipsis else options
        if len(kinds) == len(value):
            return tuple(convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    elif _fits(hint, value) and not (hint is float and abs(value) > sys.float_info.max):
        return hint(value) if hint in (float, Path) else value
    raise ConfigError(f"{where} = {value!r} is impossible: expected {describe(hint)}")


def describe(hint: Any) -> str:
    """What a hint asks for, in words."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, options))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin is tuple:
        many = "" if options[-1] is Ellipsis else f" of {len(options)}"
        return f"a list{many}, each {describe(options[0])}"
    return _WORDS.get(hint, "a table of fields")


def _fits(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, list | tuple)
    if isinstance(value, bool):  # which Python counts among the integers
        return hint is bool
    accepted = {float: (int, float), Path: (str, Path)}.get(hint, hint)
    return isinstance(value, accepted)


def _table(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where or cls.__name__} = {values!r} is impossible: expected a table of fields")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            place = f"{where} ({cls.__name__})" if where else cls.__name__
            raise ConfigError(f"{place} has no field {name!r}; its fields are: {', '.join(sorted(known))}")
    prefix = f"{where}." if where else ""
    return cls(**{name: convert(hints[name], value, prefix + name) for name, value in values.items()})
