import torch
from torch import nn

from trimtab.rules import describe_setup
from trimtab.rules._depth import (
    by_depth,
    first_layer,
    is_hidden,
    parameters_by_depth,
    weights_by_depth,
)


class Backwards(nn.Module):
    """Calls its second layer first."""

    def __init__(self):
        super().__init__()
        self.late = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.early = nn.Linear(4, 4)
        self.words = nn.Embedding(8, 4)


ORDER = ["words", "early", "norm", "late", "model"]


def test_weights_stand_in_forward_order(make_history):
    history = make_history(1, model=Backwards(), order=ORDER)
    sites = ["late.bias", "late.weight", "norm.weight", "early.weight", "words.weight"]

    assert [sites[i] for i in weights_by_depth(history, sites)] == ["early.weight", "late.weight"]


def test_weights_stand_in_the_order_of_the_model_if_no_other_is_known(make_history):
    history = make_history(1, model=Backwards())
    sites = ["early.weight", "late.weight"]

    assert [sites[i] for i in weights_by_depth(history, sites)] == ["late.weight", "early.weight"]


def test_a_module_that_was_not_seen_keeps_its_place(make_history):
    model = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(3)])
    history = make_history(1, model=model, order=["0", "2"])
    sites = ["2.weight", "1.weight", "0.weight"]

    assert [sites[i] for i in weights_by_depth(history, sites)] == [
        "0.weight",
        "1.weight",
        "2.weight",
    ]


def test_there_are_no_weights_where_nothing_is_known(make_history):
    assert weights_by_depth(make_history(1), ["0.weight"]) == []


def test_first_layer_is_all_of_the_first_module(make_history):
    history = make_history(1, model=Backwards(), order=ORDER[1:])
    sites = ["late.weight", "early.weight", "early.bias"]

    assert first_layer(history, sites) == [1, 2]
    assert first_layer(history, []) == []


def test_others_are_sorted_the_same_way(make_history):
    history = make_history(1, model=Backwards(), order=ORDER)

    assert by_depth(history, ["late", "x", "early"]) == ["early", "late", "x"]
    assert parameters_by_depth(history, ["x", "late.bias", "early.bias"]) == [
        "early.bias",
        "late.bias",
        "x",
    ]


def test_an_activation_is_hidden_if_weights_follow(make_history):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid())
    history = make_history(1, model=model, order=["0", "1", "2", "3", "model"])

    assert [is_hidden(history, site) for site in "0123"] == [True, True, False, False]
    assert is_hidden(make_history(1), "3")


def test_weights_of_another_optimizer_do_not_count(make_history):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid())
    history = make_history(1, order=["0", "1", "2", "3", "model"])
    groups = [{"params": model[i].parameters()} for i in (0, 2)]
    history.setup = describe_setup(model, [torch.optim.SGD(groups, lr=0.1)])

    assert not is_hidden(history, "1")
