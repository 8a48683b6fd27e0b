import math

import pytest
import torch
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn._activation import ACTIVATIONS, activation, gain_after


@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
def test_is_the_function_of_that_name(kind, generator):
    x = torch.randn(50, generator=generator)

    torch.testing.assert_close(activation(kind)(x), getattr(functional, kind)(x))


@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
def test_the_gain_restores_a_second_moment_of_one(kind, generator):
    z = torch.randn(200_000, generator=generator)

    moment = (gain_after(kind) * activation(kind)(z)).square().mean()

    assert moment.item() == pytest.approx(1, abs=0.02)


def test_gains_of_the_relu_family_are_exact():
    assert gain_after("relu") == pytest.approx(math.sqrt(2), rel=1e-4)
    assert gain_after("leaky_relu") == pytest.approx(math.sqrt(2 / (1 + 0.01**2)), rel=1e-4)


def test_unknown_name():
    with pytest.raises(ConfigError, match=r"elu, gelu.*Did you mean 'gelu'\?"):
        activation("gellu")
