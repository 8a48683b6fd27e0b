import pytest
import torch
from torch import nn

from trimtab.init import orthogonal_


@pytest.mark.parametrize("shape", [(40, 40), (60, 30), (30, 60)])
def test_singular_values(shape, generator):
    layer = orthogonal_(nn.Linear(*shape), gain=2.5, generator=generator)

    values = torch.linalg.svdvals(layer.weight.double())

    torch.testing.assert_close(values, torch.full_like(values, 2.5), rtol=1e-5, atol=0)


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 16, 3), nn.ConvTranspose2d(8, 16, 3)])
def test_kernels(layer, generator):
    values = torch.linalg.svdvals(orthogonal_(layer, generator=generator).weight.flatten(1))

    torch.testing.assert_close(values, torch.ones_like(values))


def test_each_group_is_a_matrix_of_its_own(generator):
    layer = orthogonal_(nn.Conv1d(8, 8, 3, groups=8), generator=generator)

    norms = layer.weight.flatten(1).norm(dim=1)

    torch.testing.assert_close(norms, torch.ones(8))


def test_gates_and_projections(generator):
    lstm = orthogonal_(nn.LSTM(6, 6, num_layers=2), generator=generator)
    attention = orthogonal_(nn.MultiheadAttention(6, 2), generator=generator)

    fused = (lstm.weight_hh_l1, lstm.weight_ih_l0, attention.in_proj_weight)
    for block in (b for w in fused for b in w.split(6)):
        torch.testing.assert_close(block @ block.T, torch.eye(6), atol=1e-5, rtol=0)


def test_is_pytorchs_own(generator):
    weight = torch.empty(5, 9)
    nn.init.orthogonal_(weight, 0.01, generator=torch.Generator().manual_seed(0))

    layer = orthogonal_(nn.Linear(9, 5), gain=0.01, generator=generator)

    assert torch.equal(layer.weight, weight)


def test_100_linear_layers_keep_every_length(generator):
    net = nn.Sequential(*(nn.Linear(64, 64, dtype=torch.float64) for _ in range(100)))
    x = torch.randn(8, 64, generator=generator, dtype=torch.float64)

    y = orthogonal_(net, generator=generator)(x)

    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
