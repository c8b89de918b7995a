"""The command line. Each verb is a dataclass in a module of its own, imported only when it is called.

So ``wbcjax --help`` and a mistyped verb answer at once, without JAX. An error that the user can mend is one line on
standard error and exit status 2.
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wbcjax.errors import ConfigError, WbcjaxError

INTERRUPTED = 130
"""Exit status after Ctrl-C outside of training, by the shell's convention."""


VERBS: dict[str, tuple[str, str]] = {
    "reproduce": ("wbcjax.cli.reproduce:Reproduce", "the paper's tables and figures, end to end"),
    "train": ("wbcjax.cli.train:Train", "train a classifier"),
    "evaluate": ("wbcjax.cli.train:Evaluate", "measure a trained run on a split"),
    "predict": ("wbcjax.cli.predict:Predict", "find and classify the cell in image files"),
    "calibrate": ("wbcjax.cli.calibrate:Calibrate", "fit a run's probabilities and sets of classes on its folds"),
    "detect": ("wbcjax.cli.detect:Detect", "find the cells in image files: boxes, classes and masks"),
    "detector train": ("wbcjax.cli.detector:Train", "train a Mask R-CNN"),
    "detector evaluate": ("wbcjax.cli.detector:Evaluate", "measure a trained detector"),
    "convert": ("wbcjax.cli.convert:Convert", "weights of Keras, torchvision or timm into a file of this package"),
    "report": ("wbcjax.cli.reproduce:Report", "write the HTML report or the README's tables from results files"),
    "data download": ("wbcjax.cli.data:Download", "get the public archives, checked by content"),
    "data check": ("wbcjax.cli.data:Check", "count images and boxes, and list every anomaly"),
    "data synthetic": ("wbcjax.cli.data:Synthetic", "draw a small synthetic data root"),
    "data prepare": ("wbcjax.cli.data:Prepare", "write both sets for TensorFlow Datasets"),
    "data provenance": ("wbcjax.cli.data:Provenance", "recompute which original each image was made from"),
    "data overlaps": ("wbcjax.cli.data:Overlaps", "find again which originals show the same field of view"),
}
"""Verb -> where its dataclass is, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """The ``wbcjax`` command: find the verb, parse its arguments, run it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(argv))


def script(command: type, prog: str) -> int:
    """Run a dataclass with a ``run`` method as a script of its own, with the same parser and errors as the verbs."""
    from wbcjax.cli.parse import parse

    return guarded(lambda: parse(command, sys.argv[1:], prog).run())


def guarded(action: Callable[[], int]) -> int:
    """Run ``action``; what the user can mend becomes one line on standard error and status 2."""
    try:
        return action()
    except WbcjaxError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("wbcjax: interrupted; the same command starts again, and finished stages are reused", file=sys.stderr)
        return _failed(INTERRUPTED)
    except BrokenPipeError:  # `wbcjax … | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        where = error.filename or "file system"
        message = f"{where}: {error.strerror or error}; check the path, its permissions and the disk"
    print("wbcjax:", " ".join(message.split()), file=sys.stderr)
    return _failed(2)


def _failed(status: int) -> int:
    """The status; one of several processes ends with it here."""
    if distributed := sys.modules.get("wbcjax.training.distributed"):  # else JAX is not even loaded
        distributed.end_if_shared(status)
    return status


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(VERBS))
        return 0
    if argv[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"wbcjax {version('wbcjax')}")
        return 0
    group = {name: entry for name, entry in VERBS.items() if name.split()[0] == argv[0]}
    words = max((len(name.split()) for name in group), default=1)
    if group and words == 2 and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        print(usage(group))
        return 0
    verb, rest = " ".join(argv[:words]), argv[words:]
    if verb not in VERBS:
        known = [name for name in VERBS if not group or name in group]
        close = difflib.get_close_matches(verb, known, n=1) or difflib.get_close_matches(" ".join(argv[:2]), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; the verbs are: {', '.join(known)}"
        raise ConfigError(f"there is no verb {verb!r}{hint}")
    from wbcjax.cli.parse import parse

    return parse(load(VERBS[verb][0]), rest, f"wbcjax {verb}").run()


def load(where: str) -> Any:
    """The object at ``module:name``."""
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


def usage(verbs: Mapping[str, tuple[str, str]]) -> str:
    """The overview that ``wbcjax --help`` prints."""
    width = max(map(len, verbs)) + 2
    lines = [f"  {name:<{width}}{help_}" for name, (_, help_) in verbs.items()]
    return "\n".join([
        "usage: wbcjax VERB [OPTIONS]    (wbcjax VERB --help lists the options)", "",
        "Find white blood cells in smear images and tell their class.", "", *lines,
    ])
