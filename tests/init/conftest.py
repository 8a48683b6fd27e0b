"""Layers of every kind whose fans are known, and models that are hard to read."""

import pytest
import torch
from torch import nn

LAYERS = {  # a layer, the inputs that feed one output, the outputs that one input feeds
    "linear": (lambda: nn.Linear(400, 300), 400, 300),
    "conv1d": (lambda: nn.Conv1d(64, 96, 5), 64 * 5, 96 * 5),
    "conv2d": (lambda: nn.Conv2d(48, 64, 3, stride=2), 48 * 9, 64 * 9),
    "conv3d": (lambda: nn.Conv3d(16, 24, 3), 16 * 27, 24 * 27),
    "grouped": (lambda: nn.Conv2d(128, 256, 3, groups=4), 32 * 9, 64 * 9),
    "depthwise": (lambda: nn.Conv2d(4096, 4096, 3, groups=4096), 9, 9),
    "transposed": (lambda: nn.ConvTranspose2d(64, 32, 4), 64 * 16, 32 * 16),
    "strided": (lambda: nn.ConvTranspose2d(64, 32, 4, stride=2), 64 * 4, 32 * 16),
    "transposed grouped": (lambda: nn.ConvTranspose1d(128, 64, 8, groups=2), 64 * 8, 32 * 8),
}


@pytest.fixture(params=LAYERS)
def known_layer(request):
    make, fan_in, fan_out = LAYERS[request.param]
    return make(), fan_in, fan_out


@pytest.fixture
def measured():
    """Variance of a weight in float64."""

    def measure(weight: torch.Tensor) -> float:
        return weight.detach().double().square().mean().item()

    return measure
