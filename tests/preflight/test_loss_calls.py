"""Listening to losses."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight._loss_calls import (
    LOSSES,
    LossListener,
    is_probability,
    last_operation,
    operation_name,
)


def listened(loss_fn, output, target):
    with LossListener(output, target) as listener:
        loss_fn(output, target)
    return listener.calls


@pytest.mark.parametrize(
    ("loss_fn", "name"),
    [
        (nn.CrossEntropyLoss(), "cross_entropy"),
        (functional.cross_entropy, "cross_entropy"),
        (nn.NLLLoss(), "nll_loss"),
        (
            lambda o, y: nn.BCEWithLogitsLoss()(o[:, 0], y.float()),
            "binary_cross_entropy_with_logits",
        ),
        (lambda o, y: nn.BCELoss()(o[:, 0].sigmoid(), y.float()), "binary_cross_entropy"),
        (lambda o, y: functional.mse_loss(o[:, 0], y.float()), "mse_loss"),
        (lambda o, y: nn.L1Loss()(o[:, 0], y.float()), "l1_loss"),
        (lambda o, y: nn.SmoothL1Loss()(o[:, 0], y.float()), "smooth_l1_loss"),
        (lambda o, y: nn.HuberLoss()(o[:, 0], y.float()), "huber_loss"),
    ],
)
def test_hears_modules_and_functions(loss_fn, name):
    calls = listened(loss_fn, torch.randn(2, 3), torch.tensor([0, 1]))

    assert [c.name for c in calls] == [name]
    assert name in LOSSES.values()


def test_hears_arguments_by_name_and_place():
    y = torch.tensor([0, 1])
    by_name = listened(
        lambda o, t: functional.cross_entropy(input=o, target=t, ignore_index=1),
        torch.randn(2, 3),
        y,
    )
    by_place = listened(
        lambda o, t: functional.cross_entropy(o, t, None, None, 1), torch.randn(2, 3), y
    )

    for (call,) in (by_name, by_place):
        assert call.ignore_index == 1
        assert call.labels.tolist() == [0]
        assert call.num_classes == 3


def test_hears_a_difference_of_output_and_target_alone():
    output, y = torch.randn(2, 1), torch.randn(2)

    assert [c.name for c in listened(lambda o, t: (o - t).mean(), output, y)] == ["difference"]
    assert [c.name for c in listened(lambda o, t: (t - o).mean(), output, y)] == ["difference"]
    assert listened(lambda o, t: (o - o.mean()).mean(), output, y) == []


def test_keeps_a_call_that_raises():
    listener = LossListener()

    with pytest.raises(RuntimeError, match="between 0 and 1"), listener:
        nn.BCELoss()(torch.tensor([2.0]), torch.tensor([1.0]))

    assert listener.calls[0].input.item() == 2


def test_rows_have_the_classes_last():
    (call,) = listened(
        functional.cross_entropy, torch.arange(12.0).view(1, 3, 4), torch.tensor([[0, 1, 2, 0]])
    )

    assert call.rows.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


@pytest.mark.parametrize(
    "view", [lambda t: t, lambda t: t.view(-1), lambda t: t[0].unsqueeze(1), lambda t: t.mT.clone()]
)
def test_last_operation_looks_past_views(view):
    x = torch.randn(2, 3, requires_grad=True)

    assert operation_name(last_operation(view(torch.softmax(x, 1)))) == "Softmax"


def test_a_leaf_has_no_last_operation():
    assert last_operation(torch.randn(2)) is None


def test_probabilities():
    rows = torch.randn(4, 3)

    assert is_probability(rows.softmax(1))
    assert not is_probability(rows.softmax(0))
    assert not is_probability(rows)
    assert not is_probability(torch.ones(4, 1))
