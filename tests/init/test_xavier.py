import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init import xavier_


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_variance(known_layer, distribution, generator, measured):
    layer, fan_in, fan_out = known_layer

    xavier_(layer, gain=1.5, distribution=distribution, generator=generator)

    assert measured(layer.weight) == pytest.approx(1.5**2 * 2 / (fan_in + fan_out), rel=0.03)
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.03 * layer.weight.std().item())


def test_is_pytorchs_own_on_a_linear_layer(generator):
    weight = torch.empty(30, 20)
    nn.init.xavier_uniform_(weight, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(xavier_(nn.Linear(20, 30), generator=generator).weight.data, weight)


def test_the_uniform_distribution_has_its_bound(generator):
    weight = xavier_(nn.Linear(300, 200), generator=generator).weight

    assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / 500), rel=1e-3)


def test_attention_and_gates_have_their_own_fans(generator, measured):
    attention = xavier_(nn.MultiheadAttention(300, 3), generator=generator)
    lstm = xavier_(nn.LSTM(300, 100), generator=generator)

    assert measured(attention.in_proj_weight) == pytest.approx(2 / 600, rel=0.02)
    assert measured(lstm.weight_ih_l0) == pytest.approx(2 / 400, rel=0.02)
    assert measured(lstm.weight_hh_l0) == pytest.approx(2 / 200, rel=0.02)
    assert (attention.in_proj_bias == 0).all()
    assert (lstm.bias_hh_l0 == 0).all()


def test_unknown_distribution():
    with pytest.raises(ConfigError, match="distribution must be one of normal, uniform"):
        xavier_(nn.Linear(2, 2), distribution="cauchy")


def test_signal_and_gradient_through_100_linear_layers(generator):
    def sizes(net):
        x = torch.randn(16, 256, generator=generator, requires_grad=True)
        y = net(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        return y.square().mean().sqrt().item(), gradient.square().mean().sqrt().item()

    net = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(100)))

    assert all(0.5 < size < 2 for size in sizes(xavier_(net, generator=generator)))
    assert all(size < 1e-3 for size in sizes(xavier_(net, gain=0.8, generator=generator)))
    assert all(size > 1e3 for size in sizes(xavier_(net, gain=1.25, generator=generator)))
