import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.init import measure_gain
from trimtab.init._gains import Activation, activation_named, activation_of, plain_name


@pytest.mark.parametrize("function", [torch.relu, functional.gelu, functional.silu, torch.tanh])
def test_the_gain_restores_a_second_moment_of_one(function, generator):
    z = torch.randn(500_000, generator=generator, dtype=torch.float64)

    moment = (measure_gain(function) * function(z)).square().mean()

    assert moment.item() == pytest.approx(1, abs=0.01)


def test_known_gains():
    assert measure_gain(torch.relu) == pytest.approx(math.sqrt(2), rel=1e-4)
    assert measure_gain(functional.selu) == pytest.approx(1, rel=1e-4)
    assert Activation("relu").gain == math.sqrt(2)
    assert Activation("leakyrelu", 0.2).gain == nn.init.calculate_gain("leaky_relu", 0.2)
    assert Activation("gelu").gain == pytest.approx(1.534, abs=1e-3)
    assert Activation("tanh").gain == Activation("sigmoid").gain == 1


@pytest.mark.parametrize("gain", [1, 5 / 3])
def test_why_tanh_has_gain_1(gain, generator):
    layers = [nn.Linear(128, 128, bias=False) for _ in range(100)]
    x = torch.randn(16, 128, generator=generator, requires_grad=True)
    y = x
    for layer in layers:
        nn.init.normal_(layer.weight, std=gain / 128**0.5, generator=generator)
        y = layer(y).tanh()
    probe = torch.randn(y.shape, generator=generator)
    (gradient,) = torch.autograd.grad((y * probe).sum(), x)
    forward, backward = (t.square().mean().sqrt().item() for t in (y, gradient))

    if gain == 1:
        assert 0.02 < forward < 1
        assert 0.02 < backward < 1
    else:
        assert 0.5 < forward < 1
        assert backward > 1e3


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("ReLU", "relu"), ("relu_", "relu"), ("ReluBackward0", "relu"), ("SiLU", "silu"),
        ("leaky_relu", "leakyrelu"), ("RreluWithNoiseBackward0", "rrelu"), ("Swish", "silu"),
        ("PreluKernelBackward0", "prelu"), ("NewGELUActivation", "gelu"),
    ],
)  # fmt: skip
def test_spellings(spelling, name):
    assert plain_name(spelling) == name


def test_activations_of_modules_and_functions():
    assert activation_of(nn.LeakyReLU(0.3)) == Activation("leakyrelu", 0.3)
    assert activation_of(nn.RReLU(0.1, 0.3)) == Activation("rrelu", 0.2)
    assert activation_of(nn.PReLU()) == Activation("prelu", 0.25)
    assert activation_of(functional.gelu) == Activation("gelu")
    assert activation_of(nn.Dropout()) is None
    assert activation_named("leakyrelu") == Activation("leakyrelu", 0.01)
    assert activation_named("matmul") is None
