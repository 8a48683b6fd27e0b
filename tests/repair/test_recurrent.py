import math

import pytest
import torch
from torch import nn

from trimtab.repair._apply import apply
from trimtab.repair._recurrent import is_recurrent, lengths_of, remember
from trimtab.repair._remedy import Order


class Last(nn.Module):
    """A head on the last state."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Steps(nn.Module):
    """A loop over a cell."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = None
        for i in range(x.shape[1]):
            state = self.cell(x[:, i], state)
        return state


@pytest.fixture
def pairs():
    """Sequences of thirty steps, whose first number is asked for."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(10, 32, 30, 2, generator=generator)
    return [(each, each[:, 0, :1].sign()) for each in x]


def test_recurrent_layers_are_known():
    assert is_recurrent(Last(nn.RNN(2, 4, batch_first=True)))
    assert is_recurrent(nn.LSTMCell(2, 4))
    assert not is_recurrent(nn.Linear(2, 4))


def test_lengths_are_those_of_a_sample(pairs):
    assert list(lengths_of(Last(nn.GRU(2, 4, batch_first=True)), pairs)) == [30]
    assert list(lengths_of(Steps(nn.GRUCell(2, 4)), pairs)) == [30]
    assert list(lengths_of(nn.RNN(2, 4), pairs)) == [32]  # time first
    packed = nn.utils.rnn.pack_padded_sequence(pairs[0][0], torch.full((32,), 7), batch_first=True)
    assert list(lengths_of(nn.GRU(2, 4), [(packed, None)])) == [7]
    # this one fails, after it was seen
    assert list(lengths_of(Last(nn.RNN(3, 4, batch_first=True)), pairs)) == [30]
    assert list(lengths_of(nn.Linear(2, 4), pairs)) == []
    assert list(lengths_of(Last(nn.RNN(2, 4)), [])) == []


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gates_keep_a_state_for_up_to_the_length(kind):
    layer = kind(3, 64, 2)
    (edit,) = remember(layer, 30)
    assert (
        edit.after == "orthogonal from state to state, gates that keep a state for up to 30 steps"
    )
    for i in range(2):
        kept = getattr(layer, f"bias_ih_l{i}").detach()[64:128]
        assert float(kept.min()) >= 0
        assert 3 < float(kept.max()) <= math.log(29)
        assert not getattr(layer, f"bias_hh_l{i}").any()
        for block in getattr(layer, f"weight_hh_l{i}").split(64):
            torch.testing.assert_close(block @ block.T, torch.eye(64), atol=1e-5, rtol=0)
    if kind is nn.LSTM:
        assert torch.equal(layer.bias_ih_l0[:64], -layer.bias_ih_l0[64:128])
    else:
        assert not layer.bias_ih_l0[:64].any()


def test_without_gates_a_state_is_turned_or_kept():
    plain, relu = nn.RNN(3, 8), nn.RNN(3, 8, nonlinearity="relu")
    (edit,) = remember(plain, 30)
    assert edit.advice == (
        "initialise recurrent weights with nn.init.orthogonal_ (the identity with ReLU)"
    )
    remember(relu, 0)
    torch.testing.assert_close(
        plain.weight_hh_l0 @ plain.weight_hh_l0.T, torch.eye(8), atol=1e-5, rtol=0
    )
    assert torch.equal(relu.weight_hh_l0, torch.eye(8))
    cell = nn.RNNCell(3, 8, nonlinearity="relu")
    remember(cell, 0)
    assert torch.equal(cell.weight_hh, torch.eye(8))
    assert remember(nn.Linear(3, 8), 30) == []


def test_projections_of_an_lstm_are_drawn_too():
    layer = nn.LSTM(3, 8, proj_size=4)
    remember(layer, 0)
    assert layer.weight_hr_l0.abs().max() <= math.sqrt(6 / 12)
    assert layer.bias_ih_l0.detach()[8:16].max() <= 1


def test_plain_layers_become_gated_ones_of_the_same_size(make_setup, pairs):
    layer = nn.RNN(2, 8, 2, batch_first=True, dropout=0.1, bidirectional=True).double().eval()
    setup = make_setup(model=lambda: Last(layer), batches=pairs)

    edits = apply(setup, [Order(action="gate_recurrence")], pairs)

    assert edits[0].diff == "recurrent layers: 1 nn.RNN -> nn.GRU of the same size"
    new = setup.model.rnn
    assert type(new) is nn.GRU
    for name in ("hidden_size", "num_layers", "batch_first", "dropout", "bidirectional"):
        assert getattr(new, name) == getattr(layer, name)
    assert new.weight_hh_l1.dtype is torch.float64
    assert not new.training
    held = {id(p) for p in setup.optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in setup.model.parameters()}


def test_cells_become_gated_and_gated_layers_stay(make_setup, pairs):
    setup = make_setup(model=lambda: Steps(nn.RNNCell(2, 8)), batches=pairs)
    apply(setup, [Order(action="gate_recurrence")], pairs)
    assert type(setup.model.cell) is nn.GRUCell
    assert setup.model.cell.bias_ih[8:16].max() > 1  # of 30 steps
    lstm = nn.LSTM(2, 8, batch_first=True)
    setup = make_setup(model=lambda: Last(lstm), batches=pairs)
    (edit,) = apply(setup, [Order(action="gate_recurrence")], pairs)
    assert edit.what == "weights of recurrent layers"
    assert setup.model.rnn is lstm


def test_a_long_lag_is_learned_with_gates_and_not_without(make_build, pairs, train):
    def vanishing():
        layer = nn.RNN(2, 16, batch_first=True)
        nn.init.orthogonal_(layer.weight_hh_l0, gain=0.4)
        return Last(layer)

    def loss_of(*orders):
        setup = make_build(model=vanishing, batches=pairs)(0)
        apply(setup, orders, pairs)
        train(setup, 150)
        with torch.no_grad():
            return sum(setup.loss_fn(setup.model(x), y).item() for x, y in pairs) / len(pairs)

    assert loss_of(Order(action="gate_recurrence")) < 0.3
    assert loss_of() > 0.8
