"""A step that was left out, and what making it again shows."""

import math

import pytest
import torch
from tests.guard.conftest import HUGE

from trimtab.guard import Guard, Limits, Outcome, freeze
from trimtab.guard._second_try import SecondTry


class FakeChronicle:
    """Notes the steps that were made again."""

    def __init__(self):
        self.entered = []

    def enter_made_again(self, step, row):
        self.entered.append((step.number, row.losses, row.healed, row.reproduced))


class Case:
    """A run after 20 steps, of which the guard is told that one more was left out.

    Args:
        loss: What the step is said to have had.
        batch: What its batch is multiplied by.
    """

    def __init__(self, make_job, *, loss=math.nan, batch=1.0, guard="spike"):
        self.job = make_job(guard=guard).run(1, 20)
        guard = self.job.guard
        self.gear, self.standing = guard._gear, guard._standing
        self.standing.every_limit = [Limits(loss=100.0, norm=100.0)]
        self.standing.limits = self.standing.every_limit[0]
        self.chronicle = FakeChronicle()
        self.second_try = SecondTry(self.gear, self.standing, self.chronicle)
        self.step = guard.tape.since(19)[0]
        guard.tape.drop_after(19)
        x, y = (batch * part for part in self.job.batch(20))
        self.step.micro_steps[0].compute = freeze(lambda: self.job.loss(x, y))
        self.standing.streak[:] = [20]
        self.standing.flags[-1] = True
        self.outcome = Outcome(loss=loss, norm=math.nan, skipped=True, flagged=True, tape=self.step)

    def succeeds(self):
        return self.second_try.succeeds(self.outcome, 20)

    def weights(self):
        return [p.detach().clone() for p in self.job.model.parameters()]


def test_a_sound_step_is_made(make_job, same):
    case = Case(make_job)
    before, random = case.weights(), torch.get_rng_state()

    assert case.succeeds()

    assert not any(torch.equal(a, b) for a, b in zip(before, case.weights(), strict=True))
    same(random, torch.get_rng_state())
    assert (case.standing.streak, case.standing.flags[-1]) == ([], False)
    assert case.standing.num_made_again == 1
    ((number, (loss,), healed, reproduced),) = case.chronicle.entered
    assert (number, healed, reproduced) == (20, True, False)
    assert loss < case.standing.limits.loss


def test_snapshot_and_tape_begin_anew_after_it(make_job):
    case = Case(make_job)

    assert case.succeeds()

    assert [step.number for step in case.gear.tape.since(18)] == [19]
    assert case.gear.ring.newest().step == 20
    assert case.standing.next_snapshot == 21


def test_of_a_state_that_is_gone_it_is_made_without_a_word(make_job):
    case = Case(make_job)
    case.standing.stale_until = 20

    assert case.succeeds()

    assert case.chronicle.entered == []


@pytest.mark.parametrize("batch", [math.nan, HUGE])
def test_a_batch_that_is_bad_again_stays_out(make_job, same, batch):
    case = Case(make_job, batch=batch)
    before = case.weights()

    assert not case.succeeds()

    same(before, case.weights())
    assert case.standing.streak == [20]
    assert case.chronicle.entered == []


def test_a_step_that_is_bit_for_bit_the_same_stays_out(make_job):
    """Then the policy has a reason of its own, whatever the limits say."""
    case = Case(make_job)
    (loss,), (norm,) = case.gear.replayer.measure([case.step])
    case.outcome.loss, case.outcome.norm = loss, norm

    assert not case.succeeds()


def test_it_takes_no_part_in_a_streak(make_job):
    case = Case(make_job)
    case.standing.streak[:] = [19, 20]

    assert not case.succeeds()


def test_it_needs_the_batch_a_replayer_and_a_step_left_out(make_job):
    for name, value in {"tape": None, "skipped": False}.items():
        case = Case(make_job)
        setattr(case.outcome, name, value)
        assert not case.succeeds()
    case = Case(make_job)
    object.__setattr__(case.gear, "replayer", None)  # as with two optimizers
    assert not case.succeeds()


def test_code_that_raises_leaves_the_step_out(make_job, same):
    case = Case(make_job)
    before = case.weights()

    def gone():
        raise FileNotFoundError("train.bin")

    case.step.micro_steps[0].compute = gone

    assert not case.succeeds()
    same(before, case.weights())


def test_without_snapshots_it_is_made_all_the_same(make_job):
    case = Case(make_job, guard=Guard(snapshots=0))

    assert case.succeeds()
    assert case.gear.ring is None
