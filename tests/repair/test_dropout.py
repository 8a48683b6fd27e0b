import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.repair._apply import apply
from trimtab.repair._dropout import calls_that_drop
from trimtab.repair._remedy import Order


class Always(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.head, self.drop, self.calls = nn.Linear(4, 1), drop, 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.drop(self, x))


def function(_model, x):
    return functional.dropout(x, 0.7)


def fresh_layer(_model, x):
    return nn.Dropout(0.7)(x)


def attention(_model, x):
    q = x.unsqueeze(0)
    return functional.scaled_dot_product_attention(q, q, q, dropout_p=0.7).squeeze(0)


def by_place(_model, x):
    q = x.unsqueeze(0)
    return functional.scaled_dot_product_attention(q, q, q, None, 0.7).squeeze(0)


def correct(model, x):
    return functional.dropout(x, 0.7, training=model.training)


def answers(model, x, *, training):
    model.train(training)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        return [model(x) for _ in range(2)]


@pytest.mark.parametrize("drop", [function, fresh_layer, attention, by_place])
def test_dropout_that_is_always_on_follows_the_mode(make_setup, task, drop):
    setup = make_setup(model=lambda: Always(drop))
    a, b = answers(setup.model, task.x[0], training=False)
    assert not torch.equal(a, b)

    (edit,) = apply(setup, [Order(action="follow_mode")], task.pairs)

    assert edit.diff.startswith("dropout in evaluation of test_dropout.py:")
    assert edit.diff.endswith(": 0.7 -> none")
    assert edit.advice.startswith(f"in {edit.where}: pass training=self.training")
    a, b = answers(setup.model, task.x[0], training=False)
    assert torch.equal(a, b)
    a, b = answers(setup.model, task.x[0], training=True)
    assert not torch.equal(a, b)
    assert apply(setup, [Order(action="follow_mode")], task.pairs) == []


def test_dropout_that_follows_the_mode_is_left_alone(make_setup, task):
    setup = make_setup(model=lambda: Always(correct))
    assert apply(setup, [Order(action="follow_mode")], task.pairs) == []
    assert type(setup.model) is Always


def test_a_look_leaves_no_trace(make_setup, task):
    setup = make_setup(model=lambda: Always(function))
    state = torch.get_rng_state()
    (share,) = calls_that_drop(setup.model, task.pairs, training=False).values()
    assert share == 0.7
    assert setup.model.calls == 0
    assert setup.model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert calls_that_drop(setup.model, [], training=False) == {}


def test_dropout_layers_are_weakened(make_setup):
    setup = make_setup(model=lambda: nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.95)))
    (edit,) = apply(setup, [Order(action="set_dropout", args={"p": 0.1})])
    assert edit.diff == "dropout: 0.95 -> 0.1"
    assert setup.model[1].p == 0.1
    assert apply(setup, [Order(action="set_dropout", args={"p": 0.1})]) == []


@pytest.mark.parametrize("drop", [function, correct])
def test_calls_that_drop_are_weakened(make_setup, task, drop):
    setup = make_setup(model=lambda: Always(drop))
    orders = [Order(action="follow_mode"), Order(action="set_dropout", args={"p": 0.1})]
    edits = apply(setup, orders, task.pairs)
    assert edits[-1].diff == "dropout: 0.7 -> 0.1"
    setup.model.head = nn.Identity()
    setup.model.train()
    zeros = float((setup.model(torch.ones(100, 100)) == 0).float().mean())
    assert 0.05 < zeros < 0.15


def test_dropout_of_attention_is_weakened(make_setup):
    def model():
        return nn.MultiheadAttention(4, 2, dropout=0.9)

    setup = make_setup(model=model)
    (edit,) = apply(setup, [Order(action="set_dropout")])
    assert edit.diff == "dropout: 0.9 -> 0.1"
    assert setup.model.dropout == 0.1
