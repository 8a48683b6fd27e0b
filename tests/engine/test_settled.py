"""What follows from a step's outcome; with everything around it, see test_stepper.py."""

import math
from types import SimpleNamespace

import pytest
import torch

from trimtab import DivergedError
from trimtab.engine._result import StepResult
from trimtab.engine._settled import Counters, Pending, Settled, read_back


class FakeSchedule:
    def __init__(self):
        self.moves = 0

    def step(self):
        self.moves += 1


class FakeGuard:
    def __init__(self, says=""):
        self.says, self.noted = says, []

    def note(self, outcome):
        self.noted.append(outcome)
        return self.says

    def take_num_made_again(self):
        return 0


def settled(guard=None, *, max_skips=1):
    cleared = []
    made = Settled(
        Counters(),
        schedule=FakeSchedule(),
        guard=guard,
        accumulate=1,
        max_skips=max_skips,
        clear_gradients=lambda: cleared.append(True),
    )
    return made, cleared


def outcome(*, skipped=False, loss=2.0, norm=3.0):
    norms = SimpleNamespace(total=torch.tensor(norm))
    update = SimpleNamespace(found_inf=float(skipped), norms=norms, coefficient=1.0, flagged=0.0)
    values = read_back(update, torch.tensor(loss))
    return Pending(values, 8.0, StepResult(lr=0.5, values=values, loss_scale=None), None)


def test_nothing_is_taken_in_twice():
    made, _ = settled()
    made.wait_for(outcome())

    assert [made.take_in(), made.take_in()] == [False, False]
    assert (made.counters.steps, made._schedule.moves) == (1, 1)


def test_a_skipped_step_moves_no_schedule_and_too_many_end_the_run():
    made, _ = settled()
    made.wait_for(outcome(skipped=True))
    made.take_in()

    assert (made.counters.steps, made.skipped_steps, made._schedule.moves) == (0, 1, 0)
    made.wait_for(outcome(skipped=True))
    with pytest.raises(DivergedError, match="2 steps in a row"):
        made.take_in()


def test_gradients_of_a_state_that_is_gone_are_forgotten():
    guard = FakeGuard("went back")
    made, cleared = settled(guard)
    made.wait_for(outcome(norm=math.inf, skipped=True))

    assert made.take_in()
    assert cleared == [True]
    assert (guard.noted[0].loss, guard.noted[0].norm) == (2.0, math.inf)
    assert made.skips_in_a_row == 0


def test_a_step_without_an_update_reads_as_skipped():
    found_inf, norm, coefficient, loss, flagged, dropped = read_back(None).numbers()

    assert (found_inf, coefficient, flagged, dropped) == (1, 1, 0, 0)
    assert math.isnan(norm)
    assert math.isnan(loss)


def test_goes_on_from_its_state():
    made, _ = settled()
    made.wait_for(outcome(skipped=True))
    made.take_in()
    other, _ = settled()

    other.load_state_dict(made.state_dict())

    assert other.state_dict() == {"steps": 0, "skipped_steps": 1, "skips_in_a_row": 1}
