"""Published classifiers: the catalogue, downloads against a server on this machine, and models from names and paths."""

import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save, save_file

from wbcjax import config as cfg
from wbcjax.data import fetch as fetch_module
from wbcjax.errors import CheckpointError, ConfigError, DataError
from wbcjax.models import MODELS, build
from wbcjax.models.preprocessing import describe, preprocess
from wbcjax.pipeline.workdir import portable
from wbcjax.pretrained.cache import provide
from wbcjax.pretrained.catalog import CATALOG, file_digests
from wbcjax.pretrained.source import find
from wbcjax.pretrained.store import convert, filled, from_pretrained, load_found
from wbcjax.training import split
from wbcjax.training.weights import load_weights, read_card, read_config, save_weights

NAME = "torchvision/resnet18"


class Server:
    """Serves ``content``, resumes, and drops the connection after as many bytes as ``cuts`` says."""

    def __init__(self, content: bytes):
        self.content, self.cuts, self.requests = content, [], []
        handler = type("Handler", (BaseHTTPRequestHandler,),
                       {"do_GET": lambda request: self.answer(request), "log_message": lambda *_: None})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/resnet18-0123abcd.safetensors"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.requests.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        request.send_response(206 if asked else 200)
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        body = self.content[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:self.cuts.pop(0)] if self.cuts else body)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def resnet18(classes: int | None) -> dict[str, np.ndarray]:
    """Random weights under torchvision's names."""
    rng, state = np.random.default_rng(0), {}

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        state[f"{name}.weight"] = rng.standard_normal((outputs, inputs, size, size), np.float32) * 0.05

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = rng.random(width, np.float32) + 0.5

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    for stage in range(1, 5):
        for block in range(2):
            width, name = 32 * 2**stage, f"layer{stage}.{block}"
            inputs = width // 2 if stage > 1 and block == 0 else width
            for i in (1, 2):
                conv(f"{name}.conv{i}", width, inputs if i == 1 else width, 3)
                norm(f"{name}.bn{i}", width)
            if inputs != width:
                conv(f"{name}.downsample.0", width, inputs, 1)
                norm(f"{name}.downsample.1", width)
    if classes:
        state["fc.weight"] = rng.standard_normal((classes, 512), np.float32) * 0.05
        state["fc.bias"] = rng.random(classes, np.float32)
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return resnet18(1000)


@pytest.fixture(scope="module")
def weights_file(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "any name.safetensors"
    save_file(state, path)
    return path


@pytest.fixture
def published(weights_file, monkeypatch) -> Path:
    """The file of ``NAME``, for this test."""
    checksum = f"sha256:{hashlib.sha256(weights_file.read_bytes()).hexdigest()[:8]}"
    monkeypatch.setitem(CATALOG, NAME, replace(CATALOG[NAME], checksum=checksum))
    return weights_file


@pytest.fixture
def server():
    server = Server(b"weights" * 1000)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(fetch_module, "RETRY_SECONDS", (0.0,))


def entry(server: Server, checksum: str | None = None):
    """``NAME``, as published by the server."""
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    return replace(CATALOG[NAME], url=server.url, checksum=checksum or f"sha256:{digits}")


def arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    return {"/".join(map(str, path)): np.asarray(variable.get_value())
            for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))}


def drawn(config: cfg.ModelConfig) -> nnx.Module:
    """A model of random arrays, without compiling what draws initial ones."""
    model, rng = nnx.eval_shape(lambda: build(config)), np.random.default_rng(0)
    nnx.update(model, jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape, np.float32)), nnx.state(model)))
    return model


def assert_same(model: nnx.Module, other: nnx.Module, *, but: str | None = None) -> None:
    mine, theirs = arrays(model), arrays(other)
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        if but is None or not path.startswith(but):
            np.testing.assert_array_equal(value, theirs[path], path)


def test_every_entry_can_be_built_and_checked():
    for name, entry in CATALOG.items():
        config = cfg.ModelConfig(**entry.model)
        assert entry.name == name and config.name in MODELS and entry.publisher in ("torchvision", "keras", "timm")
        assert entry.url.startswith("https://") and entry.licence and entry.citation
        kind, _, digits = entry.checksum.partition(":")
        assert int(digits, 16) and len(digits) in {"sha256": (8, 64), "md5": (32,)}[kind]
        if len(digits) == 8:
            assert f"-{digits}.pth" in entry.url
    assert len({(entry.publisher, entry.file) for entry in CATALOG.values()}) == len(CATALOG)
    assert {entry.checksum for entry in CATALOG.values() if not entry.head} == {
        CATALOG[f"keras/{name}_notop"].checksum for name in ("vgg16", "resnet50", "inception_v3")}


def test_symmetric_is_what_torchvision_makes_of_inputs_of_its_inception():
    x = jnp.asarray(np.random.default_rng(0).random((5, 5, 3), np.float32))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    transformed = preprocess(x, "imagenet") * (std / 0.5) + (mean - 0.5) / 0.5
    np.testing.assert_allclose(preprocess(x, "symmetric"), transformed, atol=1e-6)
    assert CATALOG["torchvision/inception_v3"].model["preprocessing"] == "symmetric"


@pytest.mark.parametrize("name", ["unit", "imagenet", "caffe", "symmetric"])
def test_preprocessing_in_numbers_is_what_is_done(name):
    x, numbers = jnp.asarray(np.random.default_rng(0).random((4, 4, 3), np.float32)), describe(name)
    by_hand = (x - np.array(numbers["mean"])) / np.array(numbers["std"])
    by_hand = by_hand[..., ::-1] if numbers["order"] == "BGR" else by_hand
    np.testing.assert_allclose(preprocess(x, name), by_hand, rtol=1e-5, atol=1e-5)


def test_a_download_is_noted_and_not_repeated(server, tmp_path):
    path, sha256 = provide(entry(server), tmp_path)
    assert path == tmp_path / "weights" / "torchvision" / "resnet18-0123abcd.safetensors"
    assert path.read_bytes() == server.content and sha256 == hashlib.sha256(server.content).hexdigest()
    noted = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert noted == {"url": server.url, "bytes": 7000, "sha256": sha256, "md5": hashlib.md5(server.content).hexdigest()}
    assert provide(entry(server), tmp_path) == (path, sha256) and server.requests == [None]


def test_processes_that_want_the_same_file_download_it_once(server, tmp_path):
    threads = [threading.Thread(target=provide, args=(entry(server), tmp_path), kwargs={"progress": False})
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == [None]


def test_a_cut_transfer_is_resumed_by_itself_and_by_the_next_call(server, tmp_path):
    server.cuts = [1000, 500]
    with pytest.raises(DataError, match="failed after 1500 bytes"):
        provide(entry(server), tmp_path, progress=False)
    path, _ = provide(entry(server), tmp_path, progress=False)
    assert server.requests == [None, "bytes=1000-", "bytes=1500-"]
    assert path.read_bytes() == server.content


@pytest.mark.parametrize("checksum", ["sha256:00000000", f"md5:{'0' * 32}"])
def test_another_checksum_is_refused_and_the_download_discarded(server, tmp_path, checksum):
    with pytest.raises(DataError, match=rf"{checksum.partition(':')[0]} [0-9a-f]+, expected 0+.*discarded"):
        provide(entry(server, checksum), tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_md5_is_checked_as_keras_publishes_it(server, tmp_path):
    provide(entry(server, f"md5:{hashlib.md5(server.content).hexdigest()}"), tmp_path)


def test_a_file_that_changed_since_is_noticed(server, tmp_path):
    path, _ = provide(entry(server), tmp_path)
    path.write_bytes(b"x" + server.content[1:])
    with pytest.raises(DataError, match=r"has changed since it was downloaded.*delete it"):
        provide(entry(server), tmp_path)


def test_a_file_put_there_by_hand_is_checked_and_kept(server, tmp_path):
    path = tmp_path / "weights" / "torchvision" / "resnet18-0123abcd.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another")
    with pytest.raises(DataError, match=rf"{path.name}: sha256 [0-9a-f]+, expected"):
        provide(entry(server), tmp_path)
    assert path.read_bytes() == b"another"
    path.write_bytes(server.content)
    assert provide(entry(server), tmp_path)[0] == path and server.requests == []
    path.with_name(f"{path.name}.json").write_text("no JSON")
    with pytest.raises(DataError, match=r"json: damaged"):
        provide(entry(server), tmp_path)


def test_without_a_network_the_place_for_the_file_is_named(server, tmp_path):
    server.close()
    with pytest.raises(DataError, match=rf"by hand: {tmp_path}/weights/torchvision/resnet18-0123abcd"):
        provide(entry(server), tmp_path)


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be read or written"):
        provide(entry(server), tmp_path / "file")


def test_a_name_gives_the_published_classifier(state, tmp_path, monkeypatch):
    server = Server(save(state))
    monkeypatch.setitem(CATALOG, NAME, entry(server))
    model = from_pretrained(NAME, cache_dir=tmp_path)
    server.close()
    found = arrays(model)
    np.testing.assert_array_equal(found["backbone/stem/conv1/kernel"], state["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found["classifier/kernel"], state["fc.weight"].T)
    assert model.preprocessing == "imagenet" and model.pool == "avg"
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nnx.state(model)))
    assert_same(from_pretrained(NAME, cache_dir=str(tmp_path)), model)  # the server is gone


def test_other_classes_get_the_head_of_a_new_model(published):
    model, again, other = (from_pretrained(published, num_classes=4, pool="max", image_size=(64, 64), seed=seed,
                                           frozen_stages=1) for seed in (3, 3, 4))
    assert_same(again, model)
    assert_same(other, model, but="classifier/kernel")
    assert not np.array_equal(other.classifier.kernel[...], model.classifier.kernel[...])
    assert model.pool == "max" and model.frozen_stages == 1
    logits = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((1, 64, 64, 3)))
    assert logits.shape == (1, 4)


def test_a_file_is_known_by_its_content(published, tmp_path):
    assert from_pretrained(published, num_classes=4).preprocessing == "imagenet"
    card = convert(published, tmp_path / "out.safetensors")
    assert card["licence"] == "BSD-3-Clause" and card["source"] == "any name.safetensors"


def test_a_file_that_is_not_published_needs_its_network(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(resnet18(7), path)
    with pytest.raises(ConfigError, match=r"mine\.safetensors: not one of the published.*give the name"):
        from_pretrained(path)
    model = from_pretrained(path, name="resnet18", preprocessing="unit")
    assert model.classifier.kernel.shape == (512, 7) and model.preprocessing == "unit"
    assert_same(from_pretrained(path, name="resnet18", num_classes=5), model, but="classifier")
    with pytest.raises(CheckpointError, match="weights of another model"):
        from_pretrained(path, name="resnet34")
    config = cfg.ModelConfig(name="resnet18", num_classes=3)
    assert_same(load_found(drawn(config), find(path), head=False), model, but="classifier")
    started, fresh = filled(find(path), config, 4, head=False), build(config, 4)
    assert_same(started, model, but="classifier")
    np.testing.assert_array_equal(started.classifier.kernel[...], fresh.classifier.kernel[...])


@pytest.mark.parametrize("half", [False, True])
def test_a_converted_file_is_the_model_again(published, tmp_path, half):
    out = tmp_path / "new folder" / "out.safetensors"
    card = convert(published, out, half=half, licence="mine")
    assert card == read_card(out) and card["sha256"] == file_digests(published)["sha256"]
    assert card["architecture"] == "resnet18" and card["image_size"] == [224, 224] and card["licence"] == "mine"
    assert card["preprocessing"] == {"name": "imagenet", "range": [0, 1], "order": "RGB",
                                     "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    original, again = from_pretrained(published), from_pretrained(out)
    assert again.preprocessing == "imagenet"
    stored = load_file(out)
    assert stored["params/classifier/kernel"].dtype == (np.float16 if half else np.float32)
    assert stored["stats/backbone/stem/bn1/var"].dtype == np.float32
    for path, value in arrays(again).items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, arrays(original)[path], rtol=1e-3 if half else 0, atol=1e-6 if half else 0)
    # As weights of a run are read, too.
    config = cfg.from_dict(cfg.ClassifierConfig, read_config(out))
    params, _ = load_weights(out, split(nnx.eval_shape(lambda: build(config.model)))[1:])
    assert config.input == "whole" and params["classifier"]["kernel"].dtype == np.float32
    with pytest.raises(ConfigError, match="exists; delete it"):
        convert(published, out)


def test_weights_without_a_head(tmp_path):
    path, out = tmp_path / "trunk.safetensors", tmp_path / "out.safetensors"
    save_file(resnet18(None), path)
    assert not convert(path, out, name="resnet18")["head"]
    assert not any("classifier" in name for name in load_file(out))
    for source, more in ((path, {"name": "resnet18"}), (out, {})):
        with pytest.raises(ConfigError, match="have no head; give num_classes"):
            from_pretrained(source, **more)
    assert_same(from_pretrained(out, num_classes=4), from_pretrained(path, num_classes=4, name="resnet18"))


def test_another_pooling_needs_other_classes(published):
    with pytest.raises(ConfigError, match=r"head is for pool = 'avg'; give num_classes"):
        from_pretrained(published, pool="max")


@pytest.mark.parametrize("name", ["lenet", "compact"])
def test_a_run_of_this_package(name, tmp_path):
    run = cfg.ClassifierConfig(model=cfg.ModelConfig(name=name, image_size=(32, 32), num_classes=3))
    model = drawn(run.model)
    _, params, stats = split(model)
    save_weights(tmp_path / "weights.safetensors", params, stats, portable(run))
    assert_same(from_pretrained(tmp_path), model)
    assert_same(from_pretrained(tmp_path, num_classes=3), model)
    other = from_pretrained(tmp_path, num_classes=5, seed=3)
    assert_same(other, model, but="classifier")
    if name == "lenet":
        fresh = build(replace(run.model, num_classes=5), seed=3)
        np.testing.assert_array_equal(other.classifier.kernel[...], fresh.classifier.kernel[...])


def test_values_too_large_for_half_precision(tmp_path):
    with pytest.raises(CheckpointError, match=r"params/a has values up to 1e\+05"):
        save_weights(tmp_path / "a.safetensors", {"a": np.float32([1e5])}, {}, {}, half=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_classifier(detector_weights, published, tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean 'torchvision/resnet18'\?"):
        from_pretrained("torchvision/resnet19")
    with pytest.raises(ConfigError, match=r"xyz: no such file.*the published ones are: torchvision/vgg16,"):
        from_pretrained("xyz")
    with pytest.raises(CheckpointError, match="not the weights of a classifier"):
        from_pretrained(detector_weights)
    with pytest.raises(ConfigError, match="has no field 'colour'"):
        from_pretrained(published, colour="red")
    with pytest.raises(CheckpointError, match=r"torchvision, which has no LeNet"):
        load_found(drawn(cfg.ModelConfig(name="lenet", image_size=(32, 32))), find(published), head=True)
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        convert(published, tmp_path / "out.h5")


def test_the_published_vgg16(tmp_path, vgg16_weights):
    out = tmp_path / "vgg16.safetensors"
    assert convert(vgg16_weights, out)["licence"].startswith("CC BY 4.0")
    model = from_pretrained(out, num_classes=4)
    assert model.preprocessing == "caffe"
    assert_same(model, from_pretrained(vgg16_weights, num_classes=4))
