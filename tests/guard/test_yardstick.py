"""What was normal before an incident, of one optimizer and of several."""

import math
from types import SimpleNamespace

import pytest
import torch

from trimtab.guard import Limits, MicroStep, TapeStep
from trimtab.guard._yardstick import Yardstick


def step(number, loss, which=0, *, own=True):
    micro = MicroStep(lambda: torch.zeros(()), 1.0, 1.0, None)
    return TapeStep(
        number=number,
        micro_steps=[micro] if own else [],
        settings=[],
        divisor=1.0,
        loss=loss,
        norm=2.0,
        skipped=False,
        flagged=False,
        which=which,
    )


LIMITS = [Limits(loss=3.0, norm=5.0)]


def yardstick(steps, *, limits=LIMITS, probed=0, measured=1.0):
    def measure(clean):
        return [measured] * len(clean), [2.0] * len(clean)

    return Yardstick(
        steps,
        limits,
        probed=probed,
        replayer=SimpleNamespace(measure=measure),
        agree=lambda yes: yes,
    )


STEPS = [step(number, 1.0 + 0.01 * (number % 3)) for number in range(41, 61)]


def test_a_state_is_judged_on_the_last_clean_batches():
    it = yardstick(STEPS)

    assert [s.number for s in it.clean] == [57, 58, 59, 60]
    assert it.probe() == 1.0
    assert it.is_sound(it.levels[0] + 3 * it.spreads[0])
    assert not it.is_sound(it.limits[0].loss)
    assert not it.is_sound(math.nan)


@pytest.mark.parametrize(
    ("loss", "norm", "bad"),
    [
        (1.0, 2.0, False),
        (2.5, 2.0, True),  # over twice the level, although the policy allows 3
        (1.0, 5.1, True),
        (math.nan, 2.0, True),
        (1.0, math.inf, True),
    ],
)
def test_a_step_is_bad_beyond_what_was_normal(loss, norm, bad):
    assert yardstick(STEPS).is_bad(loss, norm) is bad


def test_each_optimizer_has_its_own_measure():
    """A critic's losses say nothing of the generator's."""
    steps = [step(n, 1.0 if n % 2 else 50.0, which=1 - n % 2) for n in range(41, 61)]
    it = yardstick(steps, limits=[Limits(loss=3.0, norm=5.0), Limits(loss=80.0, norm=90.0)])

    assert it.levels == [1.0, 50.0]
    assert not it.is_bad(50.0, 60.0, 1)
    assert it.is_bad(50.0, 2.0, 0)
    assert [s.which for s in it.clean] == [0] * 4


def test_a_state_is_judged_on_steps_that_have_a_backward_pass():
    steps = [step(n, 1.0, which=1 - n % 2, own=bool(n % 2)) for n in range(41, 61)]
    it = yardstick(steps, limits=LIMITS * 2)

    assert [s.number for s in it.clean] == [53, 55, 57, 59]


def test_without_batches_every_state_passes():
    it = yardstick([])

    assert math.isnan(it.probe())
    assert it.is_sound(it.probe())
