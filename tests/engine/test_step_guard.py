"""The making of a Stepper's guard; what it does, tests/guard shows."""

import pytest
import torch

from trimtab.engine._step_guard import guarded_update, make_micro_guard, make_step_guard
from trimtab.engine._update import Updater
from trimtab.guard import Guard
from trimtab.optim import NormClip


def guard_of(problem, config):
    updater = Updater(problem.adamw(), NormClip(0.5), at_once=True)
    guard = make_step_guard(
        config, problem.model, updater, parts={}, recorder=None, apply=lambda _: None
    )
    return guard, updater


def test_the_updater_asks_the_guard(problem):
    guard, updater = guard_of(problem, Guard(policy="nonfinite"))

    assert updater.obeys
    assert updater.judge(torch.tensor(1.0), torch.tensor(1.0)) == 0
    assert updater.judge(torch.tensor(float("nan")), torch.tensor(1.0)) == 1
    assert guard.replayer.max_norm == 0.5


def test_without_settings_there_is_none(problem):
    guard, updater = guard_of(problem, None)

    assert guard is None
    assert updater.judge is None


@pytest.mark.parametrize(
    ("act", "accumulate", "made"), [(True, 4, True), (True, 1, False), (False, 4, False)]
)
def test_micro_batches_are_judged_where_they_can_be_left_out(problem, act, accumulate, made):
    guard, updater = guard_of(problem, Guard(act=act))

    micro_guard = make_micro_guard(guard, problem.model, updater.optimizer, accumulate)

    assert (micro_guard is not None) is made


def test_rates_are_put_back_when_an_update_raises(problem):
    guard, updater = guard_of(problem, Guard())
    guard.rates.factor = 0.5
    guard.before_update()
    assert updater.optimizer.param_groups[0]["lr"] == 0.005

    updater.judge = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        guarded_update(updater, guard, divisor=1.0, loss=problem.loss().detach())

    assert updater.optimizer.param_groups[0]["lr"] == 0.01
