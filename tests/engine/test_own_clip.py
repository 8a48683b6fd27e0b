"""Loops that change gradients by themselves between backward pass and step."""

import math

import pytest
import torch
from torch import nn

from trimtab.engine._own_clip import OwnClipWatch


@pytest.fixture
def layer():
    return nn.Linear(3, 1)


@pytest.fixture
def watch(layer):
    return OwnClipWatch(torch.optim.SGD(layer.parameters(), lr=0.1))


def backward(layer, watch):
    layer(torch.ones(2, 3)).mean().backward()
    watch.after_backward()


CHANGES = {
    "clipped": lambda p: torch.nn.utils.clip_grad_norm_(p, 0.1),
    "clipped by value": lambda p: torch.nn.utils.clip_grad_value_(p, 0.1),
    "multiplied": lambda p: [each.grad.mul_(0.5) for each in p],
    "replaced": lambda p: [setattr(each, "grad", each.grad * 0.5) for each in p],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(layer, watch, change):
    backward(layer, watch)

    CHANGES[change](list(layer.parameters()))

    assert watch.take()
    assert not watch.take()  # of the next step nothing is known yet


def test_none_is_seen_where_there_was_none(layer, watch):
    assert not watch.take()
    backward(layer, watch)
    backward(layer, watch)  # accumulation
    assert not watch.take()


def test_unscaling_is_a_change_that_is_known_of(layer, watch):
    for clips, changed in ((False, False), (True, True)):
        backward(layer, watch)
        layer.weight.grad.mul_(0.5)
        if clips:
            CHANGES["clipped"](list(layer.parameters()))
        assert watch.take(expected=1) is changed


@pytest.mark.parametrize(("norm", "limit"), [(3.0, 0.25), (0.3, 0.05), (700.0, 10.0)])
def test_the_norm_that_is_clipped_to_shows_in_the_norms(watch, norm, limit):
    weight = torch.zeros(4, requires_grad=True)
    for factor in (0.01, 1.0, 3.0, 1.7, 0.002):
        weight.grad = torch.full((4,), factor * norm / 2)
        torch.nn.utils.clip_grad_norm_([weight], limit)
        watch.see(weight.grad.norm().item())

    assert watch.clip.max_norm == limit


def test_a_limit_too_small_to_be_told_exactly_stays_unknown(watch):
    for _ in range(3):
        watch.see(1e-3 * 0.3 / (0.3 + 1e-6))

    assert watch.clip.max_norm is None


def test_other_changes_stay_unknown(watch):
    draw = torch.Generator().manual_seed(0)
    for norm in torch.rand(20_000, generator=draw).tolist():
        watch.see(norm)
    watch.see(math.nan)

    assert watch.clip.max_norm is None


def test_a_limit_that_is_exceeded_was_none(watch):
    for norm in (0.5, 0.5):
        watch.see(norm)
    assert watch.clip.max_norm == 0.5
    watch.see(0.7123456)

    assert watch.clip.max_norm is None
