"""Pretrained classifiers by name or path, and into files of this package.

    model = from_pretrained("torchvision/resnet50", num_classes=4)
    model = from_pretrained("runs/resnet50/weights.safetensors")
    convert("keras/vgg16", Path("vgg16.safetensors"), half=True)
"""

from pathlib import Path
from typing import Any

import jax
from flax import nnx

from wbcjax import config as cfg
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.models import BackboneClassifier, Classifier, build
from wbcjax.models.preprocessing import describe
from wbcjax.pretrained.heads import PREDICTORS, fill_classifier
from wbcjax.pretrained.key_table import Rule, fill
from wbcjax.pretrained.source import Found, find
from wbcjax.training import split
from wbcjax.training.weights import read_tensors, save_weights


def from_pretrained(
    name_or_path: str | Path,
    *,
    num_classes: int | None = None,
    pool: str | None = None,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    cache_dir: Path | str | None = None,
    **model_fields: Any,
) -> Classifier:
    """A classifier with trained weights, in evaluation mode; it takes RGB images in [0, 1] and prepares them itself.

    Args:
      name_or_path: a name of ``pretrained.catalog``, which is downloaded once, as ``torchvision/resnet50``; or, without
        a network, a ``.pth``, ``.safetensors``, ``.h5`` or ``.keras`` file, or a run's folder.
      num_classes: None keeps the classes of the weights; another number makes a fresh head.
      pool: None is as published; where it differs from that, ``num_classes`` must be given.
      image_size: (height, width); None is as published.
      seed: of a fresh head.
      cache_dir: None is ``DataConfig.cache_dir``'s default.
      **model_fields: other fields of ``ModelConfig``, such as norm, frozen_stages, dtype or aux; for a file that is not
        published, its network as name.

    Raises:
      ConfigError: no such name or file, a field that is impossible, or no head for the classes asked for.
      CheckpointError: the file is damaged, or of another network.
      DataError: the download fails, or is not what was published.
    """
    found = find(name_or_path, network=model_fields.get("name"), cache_dir=None if cache_dir is None else
                 Path(cache_dir))
    asked = {"num_classes": num_classes, "pool": pool, "image_size": image_size}
    fields = {**found.fields, **model_fields, **{name: value for name, value in asked.items() if value is not None}}
    head = _keeps_head(found, fields, num_classes)
    config = _config(found, fields)
    model = filled(found, config, seed, head=head)
    model.eval()
    return model


def filled(found: Found, config: cfg.ModelConfig, seed: int, *, head: bool) -> Classifier:
    """The model of ``config`` with weights that are found; what they leave out, or all of the head without ``head``, is
    that of ``build(config, seed)``.

    Raises:
      ConfigError, CheckpointError: as ``from_pretrained``.
    """
    model = load_found(_shapes(config), found, head=head)
    _draw_missing(model, config, seed)
    return model


def _shapes(config: cfg.ModelConfig) -> Classifier:
    """The model without arrays: to draw random ones only to overwrite them would take most of the time."""
    return nnx.eval_shape(lambda: build(config))


def _draw_missing(model: Classifier, config: cfg.ModelConfig, seed: int) -> None:
    """Give what the weights have left without values, such as a fresh head, those of ``build(config, seed)``."""
    paths = [path for path, variable in nnx.to_flat_state(nnx.state(model))
             if isinstance(variable.get_value(), jax.ShapeDtypeStruct)]

    @jax.jit
    def draw() -> list:
        drawn = dict(nnx.to_flat_state(nnx.state(build(config, seed))))
        return [drawn[path] for path in paths]

    if paths:
        nnx.update(model, nnx.from_flat_state(zip(paths, draw(), strict=True)))


def _config(found: Found, fields: dict[str, Any]) -> cfg.ModelConfig:
    if "name" not in fields:
        raise ConfigError(f"{found.path}: not one of the published files, so its network must be said: give the name, "
                          "as resnet50")
    return cfg.from_dict(cfg.ModelConfig, fields)


def _keeps_head(found: Found, fields: dict[str, Any], num_classes: int | None) -> bool:
    classes, pool = found.fields.get("num_classes"), found.fields.get("pool", "avg")
    same_pool = fields.get("pool", "avg") == pool
    if num_classes is None and classes is None:
        raise ConfigError(f"{found.path}: the weights have no head; give num_classes for a fresh one")
    if num_classes is None and not same_pool:
        raise ConfigError(f"{found.path}: the weights' head is for pool = {pool!r}; give num_classes for a fresh one")
    return same_pool and num_classes in (None, classes)


def load_found(model: Classifier, found: Found, *, head: bool) -> Classifier:
    """Fill ``model``, which is returned, with weights that are found.

    Args:
      head: False leaves the layers whose outputs are classes as they are.

    Raises:
      CheckpointError: if they are damaged, or of another network.
    """
    if found.kind == "ours":
        return _load_ours(model, found.path, head)
    if not isinstance(model, BackboneClassifier):
        raise CheckpointError(f"{found.path}: weights of {found.kind}, which has no {type(model).__name__}; take "
                              "weights of this package")
    match found.kind:
        case "keras":
            from wbcjax.pretrained.keras import load_keras_classifier as load
        case "timm":
            from wbcjax.pretrained.timm import load_timm_classifier as load
        case _:
            from wbcjax.pretrained.torchvision import load_torchvision_classifier as load
    return load(model, found.path, head=head)


def _load_ours(model: Classifier, path: Path, head: bool) -> Classifier:
    arrays, parts = read_tensors(path), ("classifier", "aux/logits", "aux", "hidden")
    # Each part that may be left out has a rule of its own.
    rules = [*(Rule(rf"(?:params|stats)/{part}/(.*)", rf"{part}/\1") for part in parts),
             Rule(r"(?:params|stats)/(.*)", r"\1")]
    if isinstance(model, BackboneClassifier):
        fill_classifier(model, arrays, rules, str(path), head)
    elif head:
        fill(model, arrays, rules, str(path))
    else:
        fill(model, arrays, [Rule(r"params/classifier/.*", None), *rules], str(path), kept=PREDICTORS)
    return model


def convert(
    name_or_path: str | Path,
    out: Path,
    *,
    half: bool = False,
    licence: str | None = None,
    cache_dir: Path | None = None,
    **model_fields: Any,
) -> dict[str, Any]:
    """Write the weights of a name or path as a file of this package, with the configuration to rebuild the model.

    A file without a head stays without one. The card in its metadata says where the weights come from (source and
    SHA-256 of the original, licence, citation) and what they are (architecture, image size, preprocessing in numbers).

    Args:
      out: file to write, ``.safetensors``; must not exist.
      half: store the parameters in float16; they are read as float32 again.
      licence: instead of the publisher's.
      **model_fields: as of ``from_pretrained``.

    Returns:
      The card.

    Raises:
      ConfigError: if ``out`` exists or is no ``.safetensors``, and as ``from_pretrained``.
      CheckpointError, DataError: as ``from_pretrained``; a value that float16 cannot hold.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"out = {out}: expected a name that ends in .safetensors")
    if out.exists():
        raise ConfigError(f"out = {out} exists; delete it, or choose another name")
    found = find(name_or_path, network=model_fields.get("name"), cache_dir=cache_dir)
    head = "num_classes" in found.fields
    model_config = _config(found, {**found.fields, **model_fields})
    model = load_found(_shapes(model_config), found, head=head)
    _, params, stats = split(model)
    if not head:
        del params["classifier"]
    card = {
        "source": found.origin, "sha256": found.sha256, "licence": licence or found.licence,
        "citation": found.citation, "architecture": model_config.name, "head": head,
        "image_size": list(model_config.image_size), "preprocessing": describe(model_config.preprocessing),
    }
    config = cfg.to_dict(cfg.ClassifierConfig(input="whole", model=model_config))
    # The model alone: data and training are the defaults of whoever reads it.
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, params, stats, {name: config[name] for name in ("input", "model")}, card=card, half=half)
    return card
