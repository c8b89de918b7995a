"""Configurations: validation, JSON, and the golden texts of the experiments."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from wbcjax import config as cfg
from wbcjax.config.values import convert, describe
from wbcjax.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"
spec = importlib.util.spec_from_file_location("golden_write", GOLDEN / "write.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


@pytest.mark.parametrize("name", sorted(golden.resolved()))
def test_resolved_config_of_each_experiment_is_the_golden_text(name):
    expected = (GOLDEN / name).read_text()
    assert golden.resolved()[name] == expected, "if the change is meant, run `python tests/golden/write.py`"


def test_no_golden_text_is_left_over():
    assert {path.name for path in GOLDEN.glob("*.json")} == set(golden.resolved())


def test_round_trip_through_json():
    config = cfg.ClassifierConfig(
        data=cfg.DataConfig(root=Path("somewhere")), input="whole", fold=2,
        train=cfg.TrainConfig(patience=3), augment=cfg.NO_AUGMENT,
    )
    assert cfg.from_dict(cfg.ClassifierConfig, cfg.to_dict(config)) == config


@pytest.mark.parametrize(("values", "message"), [
    ({"optimm": {}}, "ClassifierConfig has no field 'optimm'; its fields are: augment, cached_copies, crop"),
    ({"optim": {"lr": 0.1}}, "optim (OptimConfig) has no field 'lr'"),
    ({"optim": 3}, "optim = 3 is impossible: expected a table of fields"),
    ({"optim": {"name": "adamx"}}, "optim.name = 'adamx' is impossible: expected one of adam, adamw, sgd"),
    ({"train": {"epochs": "ten"}}, "train.epochs = 'ten' is impossible: expected a whole number"),
    ({"train": {"epochs": 1.5}}, "train.epochs = 1.5 is impossible: expected a whole number"),
    ({"train": {"epochs": True}}, "train.epochs = True is impossible: expected a whole number"),
    ({"train": {"epochs": 0}}, "train.epochs = 0 is impossible: expected >= 1"),
    ({"train": {"class_weights": 1}}, "train.class_weights = 1 is impossible: expected true or false"),
    ({"model": {"image_size": [80]}}, "model.image_size = [80] is impossible: expected a list of 2"),
    ({"model": {"image_size": [80, "x"]}}, "model.image_size = 'x' is impossible: expected a whole number"),
    ({"model": {"image_size": [8, 8]}}, "model.image_size = (8, 8) is impossible: expected at least 16"),
    ({"fold": "a"}, "fold = 'a' is impossible: expected a whole number or null"),
    ({"fold": 5}, "fold = 5 is impossible: expected 0..4 or None"),
    ({"train": {"patience": 2}}, "train.patience = 2 is impossible: expected None unless a validation fold"),
    ({"roi": {"hsv_low": [90, 90, 300]}}, "roi.hsv_low = (90, 90, 300) is impossible"),
    ({"data": {"root": 3}}, "data.root = 3 is impossible: expected a path as text or null"),
])
def test_bad_values_name_field_and_expectation(values, message):
    with pytest.raises(ConfigError) as error:
        cfg.from_dict(cfg.ClassifierConfig, values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("build", "field"), [
    (lambda: cfg.ModelConfig(num_classes=1), "model.num_classes"),
    (lambda: cfg.OptimConfig(learning_rate=float("nan")), "optim.learning_rate"),
    (lambda: cfg.AugmentConfig(scale=1.0), "augment.scale"),
    (lambda: cfg.NoiseConfig(alphas=()), "noise.alphas"),
    (lambda: cfg.CropConfig(margin=-0.1), "crop.margin"),
    (lambda: cfg.ColorRoiConfig(blur_kernel=4), "roi.blur_kernel"),
])
def test_impossible_values_from_python(build, field):
    with pytest.raises(ConfigError, match=field):
        build()


def test_whole_numbers_are_numbers_and_lists_are_tuples():
    config = cfg.from_dict(cfg.ClassifierConfig, {"optim": {"learning_rate": 1}, "model": {"image_size": [32, 48]}})
    assert config.optim.learning_rate == 1.0 and isinstance(config.optim.learning_rate, float)
    assert config.model.image_size == (32, 48)


def test_describe_and_convert_know_every_hint_of_the_configs():
    config = cfg.ClassifierConfig()
    for part in (config, *(getattr(config, f.name) for f in dataclasses.fields(config))):
        if dataclasses.is_dataclass(part):
            assert convert(type(part), cfg.to_dict(part), "") == part
    assert describe(tuple[float, ...]) == "a list, each a number"


def test_fingerprint_changes_with_any_field():
    base = cfg.ModelConfig()
    others = [dataclasses.replace(base, name="lenet"), dataclasses.replace(base, dropout=0.1)]
    assert len({cfg.fingerprint(c) for c in (base, *others)}) == 3
    assert cfg.fingerprint(base) == cfg.fingerprint(cfg.ModelConfig())


def test_data_root_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("WBCJAX_DATA", "/data")
    assert cfg.DataConfig().root == Path("/data")
    monkeypatch.delenv("WBCJAX_DATA")
    assert cfg.DataConfig().root is None
