"""Steps of several optimizers: what belongs together, and where replays may begin."""

import pytest
import torch

from trimtab.guard import MicroStep, TapeStep
from trimtab.guard._passes import begins_whole, leader, with_partners, without_leftovers


def step(number, which, *fresh, skipped=False):
    """Return a step whose micro-steps found the gradients of these optimizers cleared."""
    micro_steps = [
        MicroStep(
            lambda: torch.zeros(()), 1.0, 1.0, None, fresh=None if f is None else frozenset(f)
        )
        for f in fresh
    ]
    return TapeStep(
        number=number,
        micro_steps=micro_steps,
        settings=[],
        divisor=1.0,
        loss=1.0,
        norm=1.0,
        skipped=skipped,
        flagged=False,
        which=which,
    )


SHARED = [step(1, 0, {0, 1}), step(2, 1), step(3, 0, {0, 1}), step(4, 1)]
"""One backward pass, two steps."""

GAN = [step(1, 0, {0}), step(2, 1, {1}), step(3, 0, {0}), step(4, 1, {1})]


class TestBeginsWhole:
    @pytest.mark.parametrize(
        ("steps", "whole"),
        [
            (SHARED, True),
            (SHARED[1:], False),  # its gradients are older
            (SHARED[2:], True),
            (GAN, True),
            (GAN[1:], True),
            ([step(1, 0, None), step(2, 0, None)], True),  # one optimizer
            ([step(1, 0, set())], False),  # added to what was there
            ([step(1, 0, {1}), step(2, 1)], False),
            ([step(1, 0, {0}, set())], True),  # accumulation
            ([], True),
        ],
    )
    def test_where_no_gradient_is_from_before(self, steps, whole):
        assert begins_whole(steps) is whole


def test_leftovers_are_what_was_left_out_for_want_of_gradients():
    left = step(2, 1, skipped=True)

    assert without_leftovers([left, *SHARED]) == SHARED
    assert without_leftovers([step(1, 0, {0}, skipped=True)])[0].number == 1
    assert without_leftovers([left]) == []


def test_partners_are_the_steps_of_one_backward_pass():
    assert with_partners(SHARED, {1}) == {1, 2}
    assert with_partners(SHARED, {4}) == {3, 4}
    assert with_partners(GAN, {1, 4}) == {1, 4}
    assert with_partners(GAN, {9}) == {9}


def test_the_leader_has_the_backward_pass():
    assert leader(SHARED, 4) is SHARED[2]
    assert leader(GAN, 4) is GAN[3]
    assert leader(SHARED[1:2], 2) is None
