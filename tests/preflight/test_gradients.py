"""Gradients beside `.grad`."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trimtab.preflight._gradients import gradients


def test_equals_backward_and_leaves_grad_alone():
    layer, x = nn.Linear(4, 2), torch.randn(3, 4)
    kept = torch.ones(2)
    layer.bias.grad = kept

    weight, bias = gradients(layer(x).square().sum(), [layer.weight, layer.bias])

    assert layer.weight.grad is None
    assert layer.bias.grad is kept
    layer.bias.grad = None
    layer(x).square().sum().backward()
    torch.testing.assert_close(weight, layer.weight.grad)
    torch.testing.assert_close(bias, layer.bias.grad)


def test_what_is_not_reached_has_none():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    assert gradients(a.sum(), [a, b])[1] is None
    assert gradients(torch.ones(()), [a, b]) == [None, None]


def test_works_with_reentrant_checkpoints():
    layer, x = nn.Linear(4, 2), torch.randn(3, 4, requires_grad=True)

    (weight,) = gradients(checkpoint(layer, x, use_reentrant=True).sum(), [layer.weight])

    assert layer.weight.grad is None
    torch.testing.assert_close(weight, x.sum(0).expand(2, 4))


def test_other_errors_pass():
    p = nn.Parameter(torch.ones(2))
    loss = p.square().sum()
    gradients(loss, [p])

    with pytest.raises(RuntimeError, match="second time"):
        gradients(loss, [p])
