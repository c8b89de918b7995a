"""Configurations of the pretrained networks, and a head trained on kept features from end to end."""

from dataclasses import replace

import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.models.backbones import stage_names
from wbcjax.pipeline import feature_store
from wbcjax.pipeline.inputs import classifier_inputs
from wbcjax.pipeline.runs import initial_model, load_run, predict_split, train_run
from wbcjax.pipeline.transfer_presets import (
    NETWORKS,
    SETTINGS,
    fine_tuned_recipe,
    frozen_recipe,
    network_configs,
    weights_fields,
)
from wbcjax.training import predict_logits, split
from wbcjax.training.weights import load_weights


@pytest.mark.parametrize("scale", SETTINGS)
@pytest.mark.parametrize("kind", ["whole", "color", "mask_rcnn", "oracle"])
@pytest.mark.parametrize("network", NETWORKS)
def test_both_recipes_of_each_network(network, kind, scale):
    setting, input = SETTINGS[scale][network], "whole" if kind == "whole" else "roi"
    crops = {} if kind == "whole" else {"roi_source": kind}
    frozen = frozen_recipe(network, input, None, scale=scale, **crops)
    (tuned,) = network_configs(network, kind, ("frozen", "fine-tuned"), None, scale)  # random weights are not frozen
    for config in (frozen, tuned):
        assert cfg.from_dict(cfg.ClassifierConfig, cfg.to_dict(config)) == config
        assert (config.model.name, config.input, config.fold) == (network, input, None)
        assert kind in ("whole", config.roi_source)
        assert config.model.image_size == getattr(setting, input)
        assert 0 < config.train_share <= 1 and config.train.epochs >= 1
    assert (frozen.model.frozen_stages, frozen.cached_copies) == (len(stage_names(network)), 1)
    assert frozen.augment == cfg.NO_AUGMENT and frozen.train.epochs == 20
    assert (tuned.model.frozen_stages, tuned.cached_copies, tuned.optim.stage_decay) == (0, 0, 1.0)
    first = cfg.first_stage(tuned)
    assert (first is None) == (kind == "color")
    if first is not None:
        assert first == fine_tuned_recipe(network, "roi", None, scale=scale), "the run of the colour ROI itself"
    if scale == "paper":
        assert frozen.train_share == tuned.train_share == 1.0
        assert tuned.train.epochs == (20 if kind == "color" else 10)


def test_less_than_a_pass_is_one_over_a_share_of_the_files():
    config = fine_tuned_recipe("vgg16", "roi", None)
    assert (config.train_share, config.train.epochs) == (SETTINGS["cpu"]["vgg16"].passes, 1)


def test_networks_without_published_weights_have_one_recipe():
    (config,) = network_configs("lenet", "oracle", ("frozen", "fine-tuned"), None, "cpu")
    assert (config.model.name, config.input, config.roi_source) == ("lenet", "roi", "oracle")


def test_random_weights_have_no_fields():
    assert weights_fields("vgg16", None) == {}


def test_fields_of_the_published_vgg16(vgg16_weights):
    assert weights_fields("vgg16", vgg16_weights) == {"flavour": "keras", "preprocessing": "caffe"}
    config = fine_tuned_recipe("vgg16", "roi", vgg16_weights)
    assert (config.model.flavour, config.model.preprocessing) == ("keras", "caffe")
    assert config.weights == vgg16_weights and config.optim.stage_decay < 1


def test_the_published_vgg16_fills_the_trunk_and_leaves_the_head(vgg16_weights):
    import h5py

    config = frozen_recipe("vgg16", "roi", vgg16_weights)
    params = split(initial_model(config))[1]
    with h5py.File(vgg16_weights) as file:
        np.testing.assert_array_equal(params["backbone"]["block1"]["convs"][0]["kernel"],
                                      file["block1_conv1/block1_conv1_W_1:0"][...])
    assert params["classifier"]["kernel"].shape == (512, 4)


@pytest.fixture(scope="module")
def head_only(synthetic_root, tmp_path_factory):
    """The config and the folder of the frozen recipe, on the smallest network."""
    config = frozen_recipe("resnet50", "whole", None)
    model = replace(config.model, name="compact", image_size=(32, 40), frozen_stages=4)
    folder = tmp_path_factory.mktemp("frozen")
    config = replace(config, data=cfg.DataConfig(root=synthetic_root, cache_dir=folder / "cache"), model=model,
                     train=replace(config.train, batch_size=4), folds=3, fold=0)
    assert train_run(config, folder / "run")
    return config, folder


def test_the_frozen_recipe_trains_the_head_alone(head_only):
    config, folder = head_only
    before, after = split(initial_model(config)), split(load_run(folder / "run")[0])
    flat = [dict(_flat(part)) for part in (before[1], after[1])]
    changed = {path for path in flat[0] if not np.array_equal(flat[0][path], flat[1][path])}
    assert changed == {("classifier", "kernel"), ("classifier", "bias")}
    assert all(np.array_equal(value, dict(_flat(after[2]))[path]) for path, value in _flat(before[2]))
    store = list((folder / "cache").glob("features-*-32x40"))
    assert len(store) == 1, "one set of features, of training and validation"
    assert load_weights(folder / "run" / "weights.safetensors", before[1:])


def _flat(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, (*path, key))
        else:
            yield (*path, key), np.asarray(value)


def test_predictions_from_kept_features_are_those_from_images(head_only, monkeypatch):
    config, folder = head_only
    model, stored = load_run(folder / "run")
    assert stored.cached_copies == 1
    test = classifier_inputs(config, "TEST")
    images = predict_logits(*split(model), np.asarray(test.images))
    found = predict_split(model, test, config)
    assert found.names == test.names and np.std(images) > 1e-3
    np.testing.assert_allclose(found.logits, images, atol=0.02 * np.abs(images).max())
    assert np.abs(found.logits - images).max() > 0, "features are kept as bfloat16"
    mirrored = predict_split(model, test, replace(config, test_views="flips")).logits
    np.testing.assert_allclose(mirrored, predict_logits(*split(model), np.asarray(test.images), views="flips"))

    def forbidden(*_):
        raise AssertionError("computed again")

    real = feature_store._features
    monkeypatch.setattr(feature_store, "_features", lambda graphdef, params, stats, images: (
        forbidden() if isinstance(images, np.ndarray) else real(graphdef, params, stats, images)))
    np.testing.assert_array_equal(predict_split(model, test, config).logits, found.logits)


def test_another_run_on_the_same_images_computes_no_features(head_only, tmp_path):
    config, folder = head_only
    (store,) = (folder / "cache").glob("features-*")
    before = (store / "features.bin").stat().st_size
    assert train_run(replace(config, optim=replace(config.optim, learning_rate=0.01)), tmp_path / "run")
    assert (store / "features.bin").stat().st_size == before
    assert list((folder / "cache").glob("features-*")) == [store]
