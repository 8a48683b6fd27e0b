"""Telling dependence from rounding."""

import torch
from torch import nn

from trimtab.preflight._leaks import differs, find_leak, leaks


def test_rounding_is_no_difference(generator):
    x = torch.randn(100, generator=generator)

    assert not differs(x, x * (1 + 1e-6))
    assert differs(x, x + 0.1)
    assert not differs(x.bfloat16(), x.bfloat16() * (1 + 2**-8))


def test_shapes_that_differ_cannot_be_compared():
    assert not differs(torch.ones(2), torch.ones(3))


class Summed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.first(x).cumsum(0))


def change_last(t):
    return torch.cat([t[:-1], t[-1:] + 1]) if t.is_floating_point() else t


def change_first(t):
    return torch.cat([t[:1] + 1, t[1:]]) if t.is_floating_point() else t


def test_finds_the_direction_and_the_place(make_subject, classes):
    subject = make_subject(Summed(), None, nn.CrossEntropyLoss(), classes)

    assert leaks(subject, change_last, lambda t: t[:-1]) is False
    assert leaks(subject, change_first, lambda t: t[1:]) is True
    assert find_leak(subject, change_first, lambda t: t[1:]) == "second"


def test_says_when_it_cannot_tell(make_subject, classes):
    subject = make_subject(Summed(), None, nn.CrossEntropyLoss(), classes)

    assert leaks(subject, change_first, lambda t: None) is None
    assert find_leak(subject, change_last, lambda t: t[:-1]) == ""
