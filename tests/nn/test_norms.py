import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.nn import norm, sync_batchnorm_


@pytest.mark.parametrize(
    ("kind", "spatial_dims", "expected"),
    [
        ("batch", 0, nn.BatchNorm1d),
        ("batch", 1, nn.BatchNorm1d),
        ("batch", 2, nn.BatchNorm2d),
        ("batch", 3, nn.BatchNorm3d),
        ("group", 2, nn.GroupNorm),
        ("layer", 0, nn.LayerNorm),
        ("layer", 2, nn.GroupNorm),
        ("none", 0, nn.Identity),
        ("rms", 0, nn.RMSNorm),
    ],
)
def test_builds_the_torch_module(kind, spatial_dims, expected, generator):
    layer = norm(kind, 32, spatial_dims=spatial_dims)
    x = torch.randn(4, 32, *[5] * spatial_dims, generator=generator)

    assert type(layer) is expected
    assert layer(x).shape == x.shape


@pytest.mark.parametrize("kind", ["layer", "rms", "group"])
def test_matches_the_formula_in_float64(kind, generator):
    x = 3 * torch.randn(6, 20, generator=generator) + 1
    wide = x.double()
    centred = wide if kind == "rms" else wide - wide.mean(-1, keepdim=True)

    expected = centred / centred.square().mean(-1, keepdim=True).sqrt()

    torch.testing.assert_close(norm(kind, 20)(x), expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dim", "spatial_dims", "groups"),
    [
        (64, 2, 32),
        (96, 2, 32),
        (48, 2, 24),
        (32, 2, 16),
        (16, 2, 8),
        (7, 2, 1),
        (1, 2, 1),
        (512, 0, 32),
        (64, 0, 4),
        (30, 0, 1),
        (8, 0, 1),
    ],
)
def test_group_norm_picks_the_largest_divisor_that_leaves_enough(dim, spatial_dims, groups):
    assert norm("group", dim, spatial_dims=spatial_dims).num_groups == groups


def test_refuses_what_cannot_work():
    with pytest.raises(ConfigError, match="norm must be one of batch, group, layer, none, rms"):
        norm("instance", 8)
    with pytest.raises(ConfigError, match="Use 'group' for channels-first data"):
        norm("rms", 8, spatial_dims=2)
    with pytest.raises(ConfigError, match="dim must be an integer"):
        norm("layer", 0)
    with pytest.raises(ConfigError, match="spatial_dims must be 0, 1, 2 or 3"):
        norm("batch", 8, spatial_dims=4)


def test_sync_batchnorm_converts_in_place_and_keeps_the_state():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    weight = model[1].weight

    assert sync_batchnorm_(model) is model

    assert type(model[1]) is type(model[2][0]) is nn.SyncBatchNorm
    assert model[1].weight is weight


def test_sync_batchnorm_refuses_a_bare_layer():
    with pytest.raises(ConfigError, match="Pass the parent"):
        sync_batchnorm_(nn.BatchNorm2d(4))
