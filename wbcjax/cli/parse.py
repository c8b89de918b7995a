"""Arguments into dataclasses by tyro, with its errors brought to one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from wbcjax.config.values import convert
from wbcjax.errors import ConfigError
from wbcjax.files import parse_json

T = TypeVar("T")
C = TypeVar("C")

_BOX = re.compile(r"\x1b\[[0-9;]*m|[╭╮╰╯│]")
_WORDS = (
    (re.compile(r"no type matching (.+?) could be instantiated from (\[.*?\])\.?.*"), r"expected \1, got \2"),
    (re.compile(r"invalid literal for int\(\) with base 10: "), "expected a whole number, got "),
    (re.compile(r"could not convert string to float: "), "expected a number, got "),
    (re.compile(r"Perhaps you meant: "), "perhaps you meant "),
)
"""Python's words for a bad value, and a user's."""
_RULE = re.compile(r"^\s*[─-]{5,}\s*$")


def parse(command: type[T], argv: Sequence[str], prog: str) -> T:
    """Parse ``argv`` into ``command``; ``--help`` prints and exits with 0.

    A command with a ``config`` field takes ``--config FILE`` too: a JSON file whose fields stand where no flag does.
    One with a method ``default(option)`` makes its own defaults, from the arguments that it asks for by name.

    Raises:
      ConfigError: for whatever tyro refuses, in one line.
    """
    import tyro

    options: dict[str, Any] = {}
    argv = list(argv)
    if hasattr(command, "default"):
        options["default"] = command.default(lambda name: _take_option(argv, name)[0])
    if "config" in getattr(command, "__dataclass_fields__", {}):
        file, argv = _take_option(argv, "--config")
        if file is not None:
            options["default"] = command(config=read_config(Path(file), get_type_hints(command)["config"]))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(command, args=argv, prog=prog, use_underscores=True, **options)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ConfigError(f"{one_line(errors.getvalue())}; see `{prog} --help`") from None


def read_config(path: Path, cls: type[C]) -> C:
    """A config of type ``cls`` from a JSON file; a run's own ``config.json`` will do.

    Raises:
      ConfigError: the file is missing or no JSON, or a field is unknown or impossible; the message names the file.
    """
    try:
        return convert(cls, parse_json(path.read_bytes()), "")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; check the path given to --config") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); correct the file") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def one_line(box: str) -> str:
    """tyro's boxed message as one line: what is wrong, and what it says to be expected."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # the first is the frame with the heading
        text = _BOX.sub("", line).strip()
        if _RULE.match(text):
            sections.append([])
        elif text and not set(text) <= {"─"}:
            sections[-1].append(text)
    said = [" ".join(lines) for lines in sections if lines and not lines[0].startswith(("For full", "Argument help"))]
    text = "; ".join(said).rstrip(".")
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    return text[:1].lower() + text[1:] if text else "the arguments are not understood"


def _take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of ``--name VALUE`` or ``--name=VALUE``, and the arguments without it."""
    for i, argument in enumerate(argv):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2], argv[:i] + argv[i + 1 :]
        if argument == name:
            if i + 1 == len(argv):
                raise ConfigError(f"{name} needs a path after it")
            return argv[i + 1], argv[:i] + argv[i + 2 :]
    return None, argv
