"""The classifiers of ``wbcjax.models`` as one writes them in PyTorch, and our weights in them."""

import numpy as np
import torch
from torch import nn

from wbcjax.models.classifier import Classifier


class Normalise(nn.Module):
    """The preprocessing called ``unit``."""

    def forward(self, x):
        return (x - 0.5) / 0.25


def _conv_relu_pool(inputs, outputs, kernel=3, padding=1):
    return nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.ReLU(inplace=True), nn.MaxPool2d(2)


def custom1(size, classes=4):
    widths = (3, 16, 32, 64, 128)
    blocks = [m for k in range(4) for m in _conv_relu_pool(widths[k], widths[k + 1])]
    dense = nn.Linear(128, 128), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(128, classes)
    return nn.Sequential(Normalise(), *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), *dense)


def custom2(size, classes=4):
    widths = (3, 16, 32, 64, 128, 256, 256)
    blocks = []
    for k in range(6):
        blocks.append(nn.Conv2d(widths[k], widths[k + 1], 3, padding=1, bias=False))
        if k < 5:
            blocks.append(nn.MaxPool2d(2))
        blocks += nn.BatchNorm2d(widths[k + 1]), nn.ReLU(inplace=True)
    dense = nn.Linear(256, 128), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(128, classes)
    return nn.Sequential(Normalise(), *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), *dense)


def lenet(size, classes=4):
    height, width = (((s - 4) // 2 - 4) // 2 for s in size)
    blocks = *_conv_relu_pool(3, 6, 5, 0), *_conv_relu_pool(6, 16, 5, 0)
    dense = nn.Linear(16 * height * width, 120), nn.ReLU(inplace=True), nn.Linear(120, 84), nn.ReLU(inplace=True)
    return nn.Sequential(Normalise(), *blocks, nn.Flatten(), *dense, nn.Linear(84, classes))


NETS = {"custom1": custom1, "custom2": custom2, "lenet": lenet}


def _our_layers(model: Classifier) -> list:
    """Convolutions, batch normalisations and dense layers in order of computation."""
    if hasattr(model, "blocks"):
        layers = [layer for block in model.blocks for layer in (block.conv, block.norm)]
    elif hasattr(model, "convs"):
        layers = list(model.convs)
    else:
        layers = [model.conv1, model.conv2]
    dense = [model.dense] if hasattr(model, "dense") else [model.dense1, model.dense2]
    return [*layers, *dense, model.classifier]


@torch.no_grad()
def copy_weights(model: Classifier, net: nn.Module) -> None:
    """Give ``net`` the parameters of ``model``; layer by layer, the layouts turned."""
    theirs = [m for m in net if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    channels = 0
    for ours, layer in zip(_our_layers(model), theirs, strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.copy_(_tensor(ours.scale))
        elif isinstance(layer, nn.Conv2d):
            layer.weight.copy_(_tensor(ours.kernel).permute(3, 2, 0, 1))
            channels = layer.out_channels
        else:
            kernel = _tensor(ours.kernel)
            # The first dense layer reads (h, w, c) here and (c, h, w) there.
            kernel = kernel.reshape(-1, channels, layer.out_features).transpose(0, 1).reshape(kernel.shape)
            layer.weight.copy_(kernel.T)
            channels = 1
        if layer.bias is not None:
            layer.bias.copy_(_tensor(ours.bias))


def _tensor(param) -> torch.Tensor:
    return torch.from_numpy(np.array(param[...]))
