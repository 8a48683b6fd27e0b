import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init import Choice, plan


def chosen(model, **options):
    return {c.name: (c.initialiser, round(c.gain, 3)) for c in plan(model, **options)}


@pytest.mark.parametrize(
    ("activation", "initialiser", "gain", "variance"),
    [
        (nn.ReLU(), "he", math.sqrt(2), 2 / 30),
        (nn.LeakyReLU(0.5), "he", math.sqrt(1.6), 1.6 / 30),
        (nn.GELU(), "lecun", 1, 1 / 30),
        (nn.SiLU(), "lecun", 1, 1 / 30),
        (nn.SELU(), "lecun", 1, 1 / 30),
        (nn.Tanh(), "xavier", 1, 2 / 80),
        (nn.Sigmoid(), "xavier", 1, 2 / 80),
        (nn.Identity(), "lecun", 1, 1 / 30),
    ],
)
def test_rules(activation, initialiser, gain, variance):
    first, last = plan(nn.Sequential(nn.Linear(30, 50), activation, nn.Linear(50, 4)))

    assert first.initialiser == initialiser
    assert first.gain == pytest.approx(gain, rel=1e-3)
    assert first.std == pytest.approx(math.sqrt(variance), rel=1e-3)
    assert last.initialiser == "output"
    assert last.std == pytest.approx(1 / 50)


def test_the_output_can_be_treated_as_a_hidden_layer():
    _, last = plan(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)), scale_output=False)

    assert last == Choice(
        name="2",
        reads=("relu",),
        follows=("output",),
        initialiser="lecun",
        gain=1.0,
        std=1 / math.sqrt(5),
    )


@pytest.mark.parametrize(
    ("before", "gain"),
    [
        (nn.GELU(), 1.5335), (nn.SiLU(), 1.6765), (nn.ReLU(), math.sqrt(2)), (nn.SELU(), 1),
        (nn.LayerNorm(30), 1), (nn.Identity(), 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("after", [nn.GELU(), nn.SiLU(), nn.ELU()])
def test_smooth_activations_are_fed_variance_1(before, after, gain, generator):
    model = nn.Sequential(nn.Linear(8, 30), before, nn.Linear(30, 30), after, nn.Linear(30, 4))

    _, middle, _ = plan(model)

    assert middle.gain == pytest.approx(gain, rel=1e-3)
    assert middle.std == pytest.approx(gain / math.sqrt(30), rel=1e-3)


def test_recurrent_layers_and_attention():
    model = nn.ModuleDict({
        "lstm": nn.LSTM(3, 5), "rnn": nn.RNN(3, 5, nonlinearity="relu"),
        "attention": nn.MultiheadAttention(4, 2),
    })  # fmt: skip

    found = chosen(model)

    assert found["lstm.weight_ih_l0.3"] == ("xavier", 1)
    assert found["lstm.weight_hh_l0.0"] == ("orthogonal", 1)
    assert found["rnn.weight_ih_l0.0"] == ("he", 1.414)
    assert found["rnn.weight_hh_l0.0"] == ("orthogonal", 1)
    assert found["attention.in_proj_weight.query"] == ("lecun", 1)


def test_the_batch_is_run_only_where_tracing_fails():
    calls = []
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    net.register_forward_hook(lambda *_: calls.append(1))

    plan(net, torch.ones(1, 2))

    assert calls == []


def test_changes_nothing(generator):
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    before = [p.clone() for p in net.parameters()]

    plan(net, torch.ones(1, 2))

    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_a_batch_that_is_not_finite():
    with pytest.raises(ConfigError, match="batch holds 2 of 2"):
        plan(nn.Linear(2, 2), torch.full((1, 2), torch.nan))
