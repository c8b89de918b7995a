"""Names of InceptionV3's weights: Keras' numbers and their offsets, torchvision's modules, and what is wrong with them.

Values: tests/parity.
"""

import numpy as np
import pytest

from wbcjax.errors import CheckpointError
from wbcjax.pretrained.keras_inception import CONVS, canonical, inception_rules
from wbcjax.pretrained.key_table import destination
from wbcjax.pretrained.torchvision import inception_aux_rules
from wbcjax.pretrained.torchvision import inception_rules as torchvision_rules

KNOWN = {  # the number of a convolution in a process's first model, counted along Keras' source by hand
    0: "conv_1a", 4: "conv_4a", 5: "mixed_5b/branch1x1", 11: "mixed_5b/branch_pool", 12: "mixed_5c/branch1x1",
    26: "mixed_6a/branch3x3", 30: "mixed_6b/branch1x1", 69: "mixed_6e/branch_pool", 70: "mixed_7a/branch3x3_1",
    76: "mixed_7b/branch1x1", 79: "mixed_7b/branch3x3_2b", 93: "mixed_7c/branch_pool",
}


def source(first=0, form="{layer}/{part}"):
    """Arrays of one value, the convolution's place in the order; the first layer of a process has no number."""
    named = {}
    for i in range(94):
        number = f"_{first + i}" if first + i else ""
        named[form.format(layer=f"conv2d{number}", part="kernel")] = np.full((1, 1), i)
        for part in ("beta", "moving_mean", "moving_variance"):
            named[form.format(layer=f"batch_normalization{number}", part=part)] = np.full(2, i)
    return named


@pytest.mark.parametrize(("first", "form"), [
    (0, "{layer}/{part}"), (1, "{layer}/{layer}/{part}:0"), (95, "{layer}/{part}:0"),
])
def test_only_the_order_of_the_numbers_counts(first, form):
    shuffled = dict(sorted(source(first, form).items()))  # _10 before _2
    shuffled["predictions/kernel"] = np.zeros(1)
    arrays = canonical(shuffled, "file")
    assert "predictions/kernel" in arrays
    rules = inception_rules("backbone/")
    found = {destination(name, rules)[0]: array for name, array in arrays.items() if "predictions" not in name}
    assert len(found) == 94 * 5 and len(set(CONVS)) == 94
    for number, path in KNOWN.items():
        np.testing.assert_array_equal(found[f"backbone/{path}/conv/kernel"], [[number]])
        for part in ("bias", "mean", "var"):
            np.testing.assert_array_equal(found[f"backbone/{path}/bn/{part}"], [number, number])
        np.testing.assert_array_equal(found[f"backbone/{path}/bn/scale"], [1, 1])


def test_another_number_of_layers():
    named = source()
    del named["conv2d_7/kernel"]
    with pytest.raises(CheckpointError, match=r"odd\.h5: 93 layers are called conv2d.* has 94"):
        canonical(named, "odd.h5")
    with pytest.raises(CheckpointError, match="0 layers are called conv2d"):
        canonical({}, "none.h5")


@pytest.mark.parametrize(("theirs", "ours"), [
    ("Conv2d_1a_3x3.conv.weight", "backbone/conv_1a/conv/kernel"),
    ("Conv2d_3b_1x1.bn.running_var", "backbone/conv_3b/bn/var"),
    ("Mixed_5b.branch_pool.conv.weight", "backbone/mixed_5b/branch_pool/conv/kernel"),
    ("Mixed_7c.branch3x3dbl_3a.bn.bias", "backbone/mixed_7c/branch3x3dbl_3a/bn/bias"),
    ("Mixed_6e.branch7x7_2.bn.num_batches_tracked", None),
    ("AuxLogits.conv1.bn.weight", "aux/conv1/bn/scale"),
    ("AuxLogits.fc.bias", "aux/logits/bias"),
])
def test_names_of_torchvision(theirs, ours):
    assert destination(theirs, [*torchvision_rules(path="backbone/"), *inception_aux_rules()])[0] == ours


def test_a_prefix_of_torchvision():
    assert destination("net.Conv2d_1a_3x3.bn.weight", torchvision_rules("net."))[0] == "conv_1a/bn/scale"
    assert destination("net_Conv2d_1a_3x3.bn.weight", torchvision_rules("net.")) is None
