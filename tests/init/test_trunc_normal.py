import math

import pytest
from torch import nn

from trimtab.init import trunc_normal_


def truncated_variance(std, cut):
    """Variance of a normal distribution cut off at `cut` standard deviations."""
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return std**2 * (1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_variance_and_cut(std, known_layer, generator, measured):
    layer, *_ = known_layer

    trunc_normal_(layer, std=std, generator=generator)

    assert measured(layer.weight) == pytest.approx(truncated_variance(std, 2), rel=0.03)
    assert layer.weight.abs().max().item() <= 2 * std * (1 + 1e-6)


def test_embeddings_are_drawn_too_and_the_padding_stays_zero(generator, measured):
    layer = trunc_normal_(nn.Embedding(500, 200, padding_idx=3), generator=generator)

    assert measured(layer.weight) == pytest.approx(truncated_variance(0.02, 2), rel=0.03)
    assert (layer.weight[3] == 0).all()
