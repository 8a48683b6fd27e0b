import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn import DeepNorm, Highway, LayerScale, PostNorm, PreNorm, ReZero, StochasticDepth
from trimtab.nn import residual as build
from trimtab.nn._residual_choice import RESIDUALS


def layer_norm(x):
    return functional.layer_norm(x, x.shape[-1:])


@pytest.fixture
def branch():
    return nn.Linear(6, 6)


@pytest.fixture
def x(generator):
    return torch.randn(5, 6, generator=generator)


def test_pre_norm(branch, x):
    torch.testing.assert_close(PreNorm(branch, 6)(x), x + branch(layer_norm(x)))
    torch.testing.assert_close(PreNorm(branch, 6, scale=0.5)(x), x + branch(layer_norm(x)) / 2)


def test_post_norm(branch, x):
    torch.testing.assert_close(PostNorm(branch, 6)(x), layer_norm(x + branch(x)))


def test_deep_norm(branch, x):
    alpha = (2 * 8) ** 0.25

    y = DeepNorm(branch, 6, num_layers=8)(x)

    torch.testing.assert_close(y, layer_norm(alpha * x + branch(x)))


def test_rms_norm_is_an_option(branch, x):
    expected = x + branch(functional.rms_norm(x, (6,), eps=1e-6))

    torch.testing.assert_close(PreNorm(branch, 6, norm="rms")(x), expected)


def test_further_arguments_reach_the_branch(x):
    class Scaled(nn.Module):
        def forward(self, x, factor, *, shift):
            return factor * x + shift

    y = PreNorm(Scaled(), 6, norm="none")(x, 2.0, shift=1.0)

    torch.testing.assert_close(y, 3 * x + 1)


def test_dropout_and_drop_path_act_on_the_branch_alone(branch, x):
    dropped = PreNorm(branch, 6, dropout=1.0)
    skipped = PreNorm(branch, 6, drop_path=1.0)

    torch.testing.assert_close(dropped(x), x)
    torch.testing.assert_close(skipped(x), x)
    torch.testing.assert_close(skipped.eval()(x), x + branch(layer_norm(x)))
    assert [type(m) for m in PreNorm(branch, 6, dropout=0.1, drop_path=0.1).regularize] == [
        nn.Dropout,
        StochasticDepth,
    ]


@pytest.mark.parametrize("kind", RESIDUALS)
def test_a_branch_that_changes_the_shape_is_refused(kind):
    wrapper = build(kind, nn.Linear(6, 1), 6, num_layers=2)

    # (5, 1) would broadcast, silently
    with pytest.raises(ConfigError, match=r"changed the shape from \(5, 6\) to \(5, 1\)"):
        wrapper(torch.zeros(5, 6))


@pytest.mark.parametrize("kind", RESIDUALS)
def test_survives_copy_pickle_and_state_dict(kind, x):
    wrapper = build(kind, nn.Linear(6, 6), 6, num_layers=3)
    fresh = build(kind, nn.Linear(6, 6), 6, num_layers=3)

    fresh.load_state_dict(wrapper.state_dict())

    for twin in (copy.deepcopy(wrapper), pickle.loads(pickle.dumps(wrapper)), fresh):
        assert torch.equal(twin(x), wrapper(x))


@pytest.mark.parametrize("kind", RESIDUALS)
def test_runs_under_autocast(kind, x):
    wrapper = build(kind, nn.Linear(6, 6), 6, num_layers=3)

    with torch.autocast("cpu", torch.bfloat16):
        y = wrapper(x)

    torch.testing.assert_close(y.float(), wrapper(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("deep_norm", DeepNorm),
        ("highway", Highway),
        ("layer_scale", LayerScale),
        ("post_norm", PostNorm),
        ("pre_norm", PreNorm),
        ("rezero", ReZero),
    ],
)
def test_the_factory_knows_every_kind(kind, expected, branch):
    wrapper = build(kind, branch, 6, num_layers=30, norm="rms", dropout=0.1, drop_path=0.2)

    assert type(wrapper) is expected
    assert wrapper.branch is branch
    assert isinstance(wrapper.norm, nn.RMSNorm)
    assert len(wrapper.regularize) == 2


def test_the_factory_takes_settings_from_the_depth(branch):
    assert build("deep_norm", branch, 6, num_layers=8).alpha == 2
    assert build("layer_scale", branch, 6, num_layers=20).init == 1e-5
    assert build("highway", branch, 6, num_layers=1).initial_gate_bias == -2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "prenorm"}, "Did you mean 'pre_norm'"),
        ({"kind": "pre_norm", "norm": "batch"}, "norm must be one of layer, none, rms"),
        ({"kind": "post_norm", "norm": "none"}, "PostNorm is a norm around a sum"),
        ({"kind": "deep_norm", "norm": "none"}, "DeepNorm is a norm around a sum"),
        ({"kind": "pre_norm", "dropout": 2.0}, "dropout is a probability"),
        ({"kind": "pre_norm", "drop_path": -1.0}, "drop_path is a probability"),
        ({"kind": "deep_norm", "num_layers": 0}, "num_layers must be"),
    ],
)
def test_refuses_bad_settings(settings, message, branch):
    kind = settings.pop("kind")

    with pytest.raises(ConfigError, match=message):
        build(kind, branch, 6, **{"num_layers": 2} | settings)


def test_refuses_a_scale_of_zero(branch):
    with pytest.raises(ConfigError, match="scale must be finite and positive"):
        PreNorm(branch, 6, scale=0.0)
