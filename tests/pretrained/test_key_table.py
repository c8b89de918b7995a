"""Key tables: each array lands where its name says, and everything that does not fit is named at once."""

import numpy as np
import pytest
from flax import nnx

from wbcjax.errors import CheckpointError
from wbcjax.pretrained.key_table import Rule, conv, convert, destination, fill, linear

RULES = [
    Rule(r"fc(\d)\.weight", r"layers/\1/kernel", linear),
    Rule(r"fc(\d)\.bias", r"layers/\1/bias"),
    Rule(r"old\.fc0\.bias", "layers/0/bias"),
    Rule(r"head\..*", None),
]


class Dense(nnx.Module):
    """Two dense layers, 2 to 3 to 1."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)])


@pytest.fixture
def source():
    return {
        "fc0.weight": np.arange(6.0).reshape(3, 2),
        "fc0.bias": np.array([1.0, 2, 3]),
        "fc1.weight": np.array([[7.0, 8, 9]]),
        "fc1.bias": np.array([4.0]),
        "head.weight": np.ones((5, 5)),
    }


def test_every_array_is_filled(source):
    module = Dense()
    fill(module, source, RULES, "here")
    np.testing.assert_array_equal(module.layers[0].kernel[...], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(module.layers[0].bias[...], [1, 2, 3])
    np.testing.assert_array_equal(module.layers[1].kernel[...], [[7], [8], [9]])
    np.testing.assert_array_equal(module.layers[1].bias[...], [4])
    assert module.layers[0].kernel[...].dtype == np.float32


def test_kept_paths_are_not_asked_for(source):
    module = Dense()
    before = np.asarray(module.layers[1].kernel[...])
    rules = [Rule(r"fc1\..*", None), *RULES]
    fill(module, source, rules, "here", kept=r"layers/1/.*")
    np.testing.assert_array_equal(module.layers[1].kernel[...], before)
    np.testing.assert_array_equal(module.layers[0].bias[...], [1, 2, 3])


def test_every_problem_is_named_and_nothing_changed(source):
    module = Dense()
    before = np.asarray(module.layers[0].bias[...])
    source |= {"fc1.weight": np.ones((2, 3)), "fc7.bias": np.ones(1), "fc9.scale": np.ones(4),
               "old.fc0.bias": np.zeros(3), "fc0.weight": np.full((3, 2), np.nan)}
    del source["fc1.bias"]
    with pytest.raises(CheckpointError) as caught:
        fill(module, source, RULES, "weights.pth")
    assert str(caught.value).splitlines() == [
        "weights.pth: weights of another model; configure the one that they were made for:",
        "  fc0.weight has values that are not finite",
        "  fc1.weight (2, 3) does not fit layers/1/kernel, which is (3, 1) here",
        "  fc7.bias (1,) has no place: the model has no layers/7/bias",
        "  fc9.scale (4,) is no name of this architecture",
        "  old.fc0.bias and fc0.bias are both for layers/0/bias",
        "  nothing for layers/1/bias (1,)",
    ]
    np.testing.assert_array_equal(module.layers[0].bias[...], before)


def test_a_name_matches_as_a_whole(source):
    shapes = {"layers/0/bias": (3,)}
    with pytest.raises(CheckpointError, match=r"xfc0\.bias \(3,\) is no name"):
        convert({"xfc0.bias": source["fc0.bias"]}, RULES, shapes, "here")
    with pytest.raises(CheckpointError, match=r"fc0\.bias\.x \(3,\) is no name"):
        convert({"fc0.bias.x": source["fc0.bias"]}, RULES, shapes, "here")


def test_an_array_of_another_rank_is_a_problem_not_a_crash(source):
    with pytest.raises(CheckpointError, match=r"fc0\.weight \(3, 2, 1\) does not fit layers/0/kernel"):
        convert({"fc0.weight": source["fc0.weight"][..., None]}, RULES, {"layers/0/kernel": (2, 3)}, "here")


def test_long_lists_are_cut():
    with pytest.raises(CheckpointError) as caught:
        convert({f"x{i}": np.ones(1) for i in range(50)}, RULES, {}, "here")
    assert len(str(caught.value).splitlines()) == 22 and str(caught.value).endswith("and 30 more")


def test_destination():
    assert destination("fc1.bias", RULES)[0] == "layers/1/bias"
    assert destination("head.bias", RULES)[0] is None
    assert destination("neck.bias", RULES) is None


def test_transforms():
    weight = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # (out, in, height, width)
    assert conv(weight).shape == (4, 5, 3, 2)
    assert conv(weight)[1, 2, 0, 1] == weight[1, 0, 1, 2]
    np.testing.assert_array_equal(linear(weight[0, 0]), weight[0, 0].T)
