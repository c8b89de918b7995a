"""What a name or a path stands for: a published classifier, a file of another library, or weights of this package."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.pretrained.cache import provide
from wbcjax.pretrained.catalog import CATALOG, CLASSES, Entry, file_digests, identify, network_fields
from wbcjax.training.weights import WEIGHTS, is_ours, read_card, read_config, tensor_names

Kind = Literal["ours", "keras", "torchvision", "timm"]

KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
DENSE_NAMES = ("classifier.0.", "pre_logits.", "fc1/")
"""How names of VGG16's first dense layer start in the three."""
HEAD_BIASES = ("fc.bias", "classifier.6.bias", "head.fc.bias", "predictions/bias")
"""Of the last layer, in torchvision's ResNet and InceptionV3, its VGG16, timm's VGG16, and Keras."""
OUR_HEAD = "params/classifier/bias"


@dataclass(frozen=True)
class Found:
    """Weights of a classifier on this machine."""

    path: Path
    kind: Kind
    """Whose names the arrays have."""
    fields: Mapping[str, Any] = field(hash=False)
    """Fields of ``ModelConfig``: the network, and what its weights want; ``num_classes`` where there is a head."""
    sha256: str = ""
    origin: str = ""
    """Address, or name of the file."""
    licence: str = "unknown"
    citation: str = ""


def find(name_or_path: str | Path, *, network: str | None = None, cache_dir: Path | None = None) -> Found:
    """The weights that ``name_or_path`` stands for: a name of the catalogue, a file, or a run's folder.

    Published files are recognised by their content, whatever they are called.

    Args:
      network: name of the model in a file that is not published, which then has fields as its library would; such a
        file does not tell it.
      cache_dir: where downloads are kept; None is ``DataConfig.cache_dir``'s default.

    Raises:
      ConfigError: if there is neither such a name nor a file.
      CheckpointError: if the file is damaged, or of a detector.
      DataError: if it cannot be downloaded, or is not what was published.
    """
    if entry := CATALOG.get(str(name_or_path)):
        path, sha256 = provide(entry, cache_dir)
        return _published(entry, path, sha256, entry.url)
    path = Path(name_or_path).expanduser()
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise _no_such(str(name_or_path))
    if is_ours(path):
        return _ours(path)
    digests = file_digests(path)
    if entry := identify(digests):
        return _published(entry, path, digests["sha256"], path.name)
    return _unpublished(path, network, digests["sha256"])


def _no_such(name: str) -> ConfigError:
    close = difflib.get_close_matches(name, CATALOG, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the published ones are: {', '.join(CATALOG)}"
    return ConfigError(f"{name}: no such file, and no published weights of that name; {hint}")


def _published(entry: Entry, path: Path, sha256: str, origin: str) -> Found:
    fields = dict(entry.model) | ({"num_classes": CLASSES} if entry.head else {})
    return Found(path, entry.publisher, fields, sha256, origin, entry.licence, entry.citation)


def _ours(path: Path) -> Found:
    config = read_config(path)
    if "annotations" in config or "model" not in config:
        raise CheckpointError(f"{path}: not the weights of a classifier; give those of one")
    fields, card = dict(config["model"]), read_card(path)
    if OUR_HEAD not in tensor_names(path):
        del fields["num_classes"]
    return Found(path, "ours", fields, card.get("sha256", file_digests(path)["sha256"]),
                 card.get("source", path.name), card.get("licence", "unknown"), card.get("citation", ""))


def _unpublished(path: Path, network: str | None, sha256: str) -> Found:
    """A file of another library, whose network is for the caller to know."""
    if path.suffix in KERAS_SUFFIXES:
        from wbcjax.pretrained.keras_file import read_keras

        kind, arrays = "keras", read_keras(path)
    else:
        from wbcjax.pretrained.torchvision import read_state

        arrays = read_state(path)
        # Only for VGG16 have the two libraries names of their own.
        kind = "timm" if any(name.startswith(("pre_logits.", "head.fc.")) for name in arrays) else "torchvision"
    fields = {} if network is None else network_fields(network, "keras" if kind == "keras" else "torchvision")
    fields["pool"] = "dense" if any(name.startswith(DENSE_NAMES) for name in arrays) else "avg"
    biases = [arrays[name] for name in HEAD_BIASES if name in arrays]
    if biases:
        fields["num_classes"] = len(biases[0])
    return Found(path, kind, fields, sha256, path.name)
