import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init import he_


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_variance(known_layer, mode, distribution, generator, measured):
    layer, fan_in, fan_out = known_layer
    fan = fan_in if mode == "fan_in" else fan_out

    he_(layer, mode=mode, negative_slope=0.2, distribution=distribution, generator=generator)

    assert measured(layer.weight) == pytest.approx(2 / (1 + 0.2**2) / fan, rel=0.03)


@pytest.mark.parametrize("layer", [nn.Linear(20, 30), nn.Conv2d(4, 6, 3)])
def test_is_pytorchs_own_on_plain_layers(layer, generator):
    weight = torch.empty_like(layer.weight)
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(he_(layer, generator=generator).weight.data, weight.data)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(64, 128, 3, groups=4),
        nn.ConvTranspose2d(64, 32, 4),
        nn.ConvTranspose2d(64, 32, 4, stride=2),
        nn.ConvTranspose1d(128, 64, 8, groups=2),
    ],
)
def test_a_convolution_doubles_the_mean_square_for_a_relu(layer, generator):
    spatial = (32,) * (layer.weight.ndim - 2)
    x = torch.randn(2, layer.in_channels, *spatial, generator=generator)

    y = he_(layer, generator=generator)(x)

    inner = y[(..., *[slice(8, -8)] * len(spatial))]
    assert inner.square().mean().item() == pytest.approx(2, rel=0.1)


def test_signal_and_gradient_through_100_relu_layers(generator):
    def sizes(net):
        x = torch.randn(16, 256, generator=generator, requires_grad=True)
        y = net(x)
        probe = torch.randn(y.shape, generator=generator)
        (gradient,) = torch.autograd.grad((y * probe).sum(), x)
        return y.square().mean().sqrt().item(), gradient.square().mean().sqrt().item()

    def average(negative_slope):
        layers = (m for _ in range(100) for m in (nn.Linear(256, 256, bias=False), nn.ReLU()))
        net = nn.Sequential(*layers)
        found = [
            sizes(he_(net, negative_slope=negative_slope, generator=generator)) for _ in range(3)
        ]
        return [math.exp(sum(map(math.log, each)) / len(each)) for each in zip(*found, strict=True)]

    assert all(0.5 < size < 2 for size in average(0.0))
    assert all(size < 1e-10 for size in average(1.0))  # LeCun's: half of the square is lost


@pytest.mark.parametrize(
    "bad", [{"mode": "fan"}, {"negative_slope": math.nan}, {"distribution": "x"}]
)
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        he_(nn.Linear(2, 2), **bad)
