import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from trimtab.errors import ConfigError
from trimtab.nn import spectral_norm_


def test_every_linear_and_convolution_gets_a_largest_singular_value_of_one():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4))

    assert spectral_norm_(model, num_iterations=30) is model

    model.eval()
    for layer in (model[0], model[2]):
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02)
    assert not parametrize.is_parametrized(model[3])


def test_a_second_call_changes_nothing():
    model = spectral_norm_(nn.Linear(3, 3))

    spectral_norm_(model)

    assert len(model.parametrizations.weight) == 1


def test_refuses_zero_iterations():
    with pytest.raises(ConfigError, match="num_iterations"):
        spectral_norm_(nn.Linear(2, 2), num_iterations=0)
