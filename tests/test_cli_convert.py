"""``wbcjax convert``: what it writes, prints and refuses."""

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from wbcjax import config as cfg
from wbcjax.cli import main
from wbcjax.models import build
from wbcjax.pretrained.store import from_pretrained
from wbcjax.training import split
from wbcjax.training.weights import read_card, read_config, save_weights


@pytest.fixture
def weights(tmp_path):
    """Of a tiny run."""
    run = cfg.ClassifierConfig(model=cfg.ModelConfig(name="compact", num_classes=3, image_size=(32, 48)))
    path = tmp_path / "mine.safetensors"
    _, params, stats = split(nnx.eval_shape(lambda: build(run.model)))
    params, stats = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), (params, stats))
    save_weights(path, params, stats, cfg.to_dict(run))
    return path


def test_writes_a_file_that_tells_what_it_is(weights, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(weights), "--out", str(out), "--half", "--image_size", "64", "64", "--preprocessing",
                 "imagenet", "--licence", "MIT"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: compact, 64×64, preprocessing imagenet, ")
    assert "source mine.safetensors, SHA-256 " in printed and "licence MIT" in printed
    assert read_card(out)["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert read_config(out)["model"]["image_size"] == [64, 64]
    assert out.stat().st_size < 0.6 * weights.stat().st_size
    model = from_pretrained(out)
    assert model.preprocessing == "imagenet" and model.classifier.bias.shape == (3,)
    np.testing.assert_array_equal(model.classifier.bias[...], 0.5)


@pytest.mark.parametrize(("source", "more", "message"), [
    ("absent.h5", [], "absent.h5: no such file, and no published weights of that name"),
    ("torchvision/resnet5", [], "did you mean 'torchvision/resnet50'?"),
    ("foreign.safetensors", [], "give the name, as resnet50"),
    ("foreign.safetensors", ["--name", "resnet18"], "weights of another model"),
    ("foreign.safetensors", ["--name", "alexnet"], "model.name = 'alexnet' is unknown"),
    ("text.h5", ["--name", "vgg16"], "text.h5: not an HDF5 file"),
])
def test_refuses_in_one_line(source, more, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file({"a.weight": np.zeros(3, np.float32)}, tmp_path / "foreign.safetensors")
    (tmp_path / "text.h5").write_text("no weights")
    assert main(["convert", source, "--out", "out.safetensors", *more]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out.safetensors").exists()


def test_overwrites_nothing(weights, capsys):
    before = weights.read_bytes()
    assert main(["convert", str(weights), "--out", str(weights)]) == 2
    assert "exists; delete it" in capsys.readouterr().err and weights.read_bytes() == before
