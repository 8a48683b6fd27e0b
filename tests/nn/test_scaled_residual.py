import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn import Highway, LayerScale, ReZero, highway_gate_bias, layer_scale_init


@pytest.fixture
def branch():
    return nn.Linear(6, 6)


@pytest.fixture
def x(generator):
    return torch.randn(5, 6, generator=generator)


def test_rezero_starts_as_the_identity_and_still_gets_a_gradient(branch, x):
    wrapper = ReZero(branch, 6)

    y = wrapper(x)
    y.square().sum().backward()

    assert torch.equal(y, x)
    assert wrapper.scale.grad.item() == pytest.approx((2 * x * branch(x)).sum().item(), rel=1e-5)
    assert branch.weight.grad.count_nonzero() == 0


def test_rezero_formula(branch, x):
    wrapper = ReZero(branch, 6)
    nn.init.constant_(wrapper.scale, 0.3)

    torch.testing.assert_close(wrapper(x), x + 0.3 * branch(x))


def test_layer_scale_formula(branch, x, generator):
    wrapper = LayerScale(branch, 6, init=0.1)
    torch.testing.assert_close(wrapper(x), x + 0.1 * branch(functional.layer_norm(x, (6,))))

    nn.init.normal_(wrapper.gamma, generator=generator)
    expected = x + wrapper.gamma * branch(functional.layer_norm(x, (6,)))
    torch.testing.assert_close(wrapper(x), expected)


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, 0.1), (18, 0.1), (19, 1e-5), (24, 1e-5), (25, 1e-6), (1000, 1e-6)]
)
def test_layer_scale_starts_by_depth(depth, expected):
    assert layer_scale_init(depth) == expected


def test_highway_formula(branch, x):
    wrapper = Highway(branch, 6, gate_bias=-1.0)

    gate = torch.sigmoid(functional.linear(x, wrapper.gate.weight) - 1)

    torch.testing.assert_close(wrapper(x), gate * branch(x) + (1 - gate) * x)


def test_a_highway_stack_keeps_a_third_of_its_input_at_any_depth():
    for depth in (10, 100, 1000):
        gate = 1 / (1 + math.exp(-highway_gate_bias(depth)))
        assert (1 - gate) ** depth > 0.25
    assert highway_gate_bias(1000) == pytest.approx(-math.log(1000))


def test_raw_parameters_come_back_from_the_meta_device():
    with torch.device("meta"):
        wrappers = [
            ReZero(nn.Identity(), 4),
            LayerScale(nn.Identity(), 4, init=0.1),
            Highway(nn.Identity(), 4),
        ]
    for wrapper in wrappers:
        wrapper.to_empty(device="cpu").reset_parameters()

    assert wrappers[0].scale.tolist() == [0]
    torch.testing.assert_close(wrappers[1].gamma, torch.full((4,), 0.1))
    torch.testing.assert_close(wrappers[2].gate_bias, torch.full((4,), -2.0))


def test_refuses_bad_settings(branch):
    with pytest.raises(ConfigError, match="gate_bias must be finite and negative, got 1"):
        Highway(branch, 6, gate_bias=1.0)
    with pytest.raises(ConfigError, match="init must be finite and positive"):
        LayerScale(branch, 6, init=0.0)
    with pytest.raises(ConfigError, match="num_layers"):
        layer_scale_init(0)
