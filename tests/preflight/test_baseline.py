"""What a loss is worth, against formulas."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight._baseline import baseline, entropy, mean_loss
from trimtab.preflight._loss_calls import LossListener


def calls_of(loss_fn, output, target):
    with LossListener() as listener:
        loss = loss_fn(output, target)
    return listener.calls, float(loss)


def test_best_guess_of_classes_is_the_entropy_of_their_shares():
    y = torch.tensor([0, 0, 0, 1])
    calls, loss = calls_of(functional.cross_entropy, torch.randn(4, 3), y)

    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert baseline(calls, loss) == pytest.approx(expected, rel=1e-5)


def test_best_guess_scales_with_reduction_and_weight():
    y = torch.tensor([0, 0, 0, 1])
    output = torch.randn(4, 3)
    calls, mean = calls_of(functional.cross_entropy, output, y)
    summed, total = calls_of(nn.CrossEntropyLoss(reduction="sum"), output, y)

    assert baseline(summed, total) == pytest.approx(4 * baseline(calls, mean), rel=1e-5)


def test_best_guess_in_regression_is_the_variance():
    y = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    calls, loss = calls_of(nn.MSELoss(), torch.zeros(2, 2), y)

    assert baseline(calls, loss) == pytest.approx((1 + 4) / 2, rel=1e-5)


def test_best_guess_of_binary_labels_is_by_column():
    y = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    calls, loss = calls_of(nn.BCEWithLogitsLoss(), torch.randn(2, 2), y)

    assert baseline(calls, loss) == pytest.approx(math.log(2) / 2, rel=1e-5)


def test_unknown_or_several_losses_have_none():
    y = torch.tensor([0, 1])
    calls, loss = calls_of(
        lambda o, t: functional.cross_entropy(o, t) + functional.cross_entropy(2 * o, t),
        torch.randn(2, 3),
        y,
    )

    assert baseline([], 1.0) is None
    assert baseline(calls, loss) is None


def test_mean_loss_leaves_weights_and_ignored_labels_out():
    output, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 9])
    loss_fn = nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 9.0]), ignore_index=9)
    calls, _ = calls_of(loss_fn, output, y)

    expected = functional.cross_entropy(output[:3], y[:3])
    assert mean_loss(calls[0]) == pytest.approx(float(expected), rel=1e-6)


def test_mean_loss_of_labels_out_of_range_is_not_known():
    listener = LossListener()
    with pytest.raises(IndexError), listener:
        functional.cross_entropy(torch.randn(2, 3), torch.tensor([0, 3]))

    assert mean_loss(listener.calls[0]) is None


def test_entropy_of_one_label_is_zero():
    assert entropy(torch.tensor([2, 2, 2])) == 0
