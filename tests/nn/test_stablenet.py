import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError, StabilityWarning
from trimtab.nn import Highway, StableNet
from trimtab.nn._residual_choice import RESIDUALS

DEEP = sorted(set(RESIDUALS) - {"post_norm"})


def make(seed=1, **settings):
    return StableNet(64, 10, **settings, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def x(generator):
    return torch.randn(64, 64, generator=generator)


def loss_of(model, x):
    return functional.cross_entropy(model(x), torch.arange(len(x)) % 10)


def grad_norm(module):
    return nn.utils.get_total_norm([p.grad for p in module.parameters()]).item()


@pytest.mark.parametrize(
    ("residual", "depth"),
    [*itertools.product(DEEP, (1, 10, 100)), ("pre_norm", 1000), ("deep_norm", 1000)],
)
def test_signals_arrive_and_gradients_return_at_any_depth(residual, depth, x):
    model = make(depth=depth, width=64, residual=residual, dropout=0.0)
    with torch.no_grad():
        stream = model.blocks(model.input_proj(x))  # (batch, width)

    loss_of(model, x).backward()

    assert 0.3 < stream.square().mean().sqrt() < 2
    if residual == "rezero":  # its only gradients are the scalars', sums without an expected sign
        assert all(block.scale.grad.abs() > 0 for block in model.blocks)
    else:
        assert 0.2 < grad_norm(model.blocks[0]) / grad_norm(model.blocks[-1]) < 5


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "elu", "leaky_relu"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_default_stream_doubles_its_variance_whatever_the_activation(activation, norm, x):
    model = make(depth=200, activation=activation, norm=norm, dropout=0.0)
    with torch.no_grad():
        first = model.input_proj(x)
        last = model.blocks(first)

    # each of L blocks adds 1 / L to a variance of 1
    assert (last.var() / first.var()).item() == pytest.approx(2, abs=0.2)


def test_samples_stay_apart_in_a_deep_network(x):
    model = make(depth=300, dropout=0.0)
    with torch.no_grad():
        h = functional.normalize(model.norm(model.blocks(model.input_proj(x))))

    cosine = (h @ h.T).fill_diagonal_(0).sum() / (64 * 63)

    assert abs(cosine) < 0.2  # without residual connections it would be 1


@pytest.mark.parametrize("residual", sorted(RESIDUALS))
def test_the_first_loss_is_that_of_guessing(residual, x):
    model = make(residual=residual)

    assert loss_of(model, x).item() == pytest.approx(math.log(10), abs=0.05)
    assert model.head.proj.bias.count_nonzero() == 0
    assert model.head.proj.weight.std().item() == pytest.approx(1 / 128, rel=0.1)


@pytest.mark.parametrize("residual", DEEP)
def test_a_deep_network_learns(residual, generator):
    x = torch.randn(64, 64, generator=generator)
    model = make(depth=50, width=32, residual=residual, dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = loss_of(model, x).item()

    for _ in range(25):
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()

    assert loss.item() < 0.7 * first


def test_images_are_flattened(x):
    model = make().eval()

    assert torch.equal(model(x.view(64, 8, 8)), model(x))


def test_dropout_and_drop_path_act_while_training_alone(x):
    model = make(dropout=0.5, drop_path=0.5)

    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    assert [b.regularize[0].p for b in model.blocks] == [0.5 * n / 8 for n in range(1, 9)]


def test_outputs_are_float32_under_autocast(x):
    model = make().eval()

    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)

    assert y.dtype == torch.float32
    torch.testing.assert_close(y, model(x), atol=0.03, rtol=0.03)


@pytest.mark.parametrize("residual", ["pre_norm", "highway"])
def test_the_generator_decides_the_weights(residual, x):
    first, second, third = (make(seed, residual=residual).eval() for seed in (1, 1, 2))

    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), third(x))


def test_highway_gates_start_by_depth():
    model = make(depth=100, residual="highway")

    assert all(isinstance(b, Highway) for b in model.blocks)
    assert model.blocks[0].gate_bias[0].item() == pytest.approx(-math.log(100))


def test_survives_copy_pickle_and_state_dict(x):
    model = make().eval()
    loaded = make(seed=2).eval()
    loaded.load_state_dict(model.state_dict())

    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(twin(x), model(x))


def test_the_weights_can_be_drawn_after_the_meta_device(x):
    with torch.device("meta"):
        model = make().eval()

    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.initialize_(torch.Generator().manual_seed(1))

    assert torch.equal(model(x), make().eval()(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth must be"),
        ({"width": 0}, "width must be"),
        ({"residual": "resero"}, "Did you mean 'rezero'"),
        ({"norm": "batch"}, "norm must be one of layer, none, rms"),
        ({"norm": "none", "residual": "deep_norm"}, "DeepNorm is a norm around a sum"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"dropout": -0.1}, "dropout is a probability"),
        ({"drop_path": 2}, "drop_path is a probability"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_refuses_empty_ends():
    with pytest.raises(ConfigError, match="in_features must be"):
        StableNet(0, 10)
    with pytest.raises(ConfigError, match="out_features must be"):
        StableNet(64, 0)


def test_deep_post_norm_warns():
    with pytest.warns(StabilityWarning, match="post_norm with 18 layers"):
        make(depth=18, residual="post_norm")
