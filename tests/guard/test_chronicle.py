"""What the guard remembers of a run, and how it says it."""

import math
import warnings

import pytest

from trimtab import StabilityWarning
from trimtab.guard import Change, Experiment, Limits, MicroStep, Outcome, Tape, TapeStep
from trimtab.guard._chronicle import SHOWN, TOLD, Chronicle
from trimtab.guard._naming import describe
from trimtab.guard._standing import Standing
from trimtab.guard._verdict import Verdict
from trimtab.guard.tt450_rate_jump import RateJump


class FakeFolders:
    """Notes what it should write."""

    def __init__(self):
        self.written = []

    def write(self, incident, *, tape, snapshot=None, made=False):
        self.written.append((incident.step, [step.number for step in tape], snapshot, made))


class Told:
    """A chronicle whose run is at some step, with steps up to it on the tape."""

    def __init__(self, *streak, last=60, escalated=False):
        limits = Limits(loss=3.0, norm=5.0, loss_level=1.0, norm_level=2.0)
        self.standing = Standing(
            number=last, streak=list(streak), limits=limits, escalated=escalated
        )
        self.tape, self.folders = Tape(), FakeFolders()
        self.rows, self.looked = {}, []
        self.chronicle = Chronicle(self.standing, self.tape, self.folders, look=self.look)
        for number in range(50, last + 1):
            bad = number in streak
            step = step_of(number, 90.0 if bad else 1.0, bad=bad)
            self.tape.add(step)
            self.chronicle.remember(outcome_of(step), number)

    def look(self, micro_steps, limits):
        self.looked.append((len(micro_steps), limits))
        return self.rows

    def skip(self, number):
        self.standing.streak.append(number)
        self.chronicle.enter_skip(number)


def step_of(number, loss, *, bad=False, micro_steps=()):
    return TapeStep(
        number, list(micro_steps), [{"lr": 0.1}], 1.0, loss, 2.0, skipped=bad, flagged=bad
    )


def outcome_of(step, **values):
    return Outcome(
        loss=step.loss, norm=step.norm, skipped=step.skipped, flagged=step.flagged, values=values
    )


def verdict_of(change, **settings):
    finding = describe(RateJump(), change, Limits(), step_of(60, 90.0), 60, num_replays=2)
    settings = {"experiments": (), "restored": False, "change": change} | settings
    return Verdict(finding=finding, **settings)


class TestSteps:
    def test_are_remembered_with_all_numbers_that_came(self):
        told = Told(60)
        told.chronicle.remember(outcome_of(step_of(61, 1.5), lr=0.1, note="no number"), 61)
        told.skip(61)

        signals = told.chronicle.incidents[0].signals
        assert set(signals) == {"step", "loss", "gradient.norm", "skipped", "flagged", "lr"}
        assert signals["step"] == [float(n) for n in range(50, 62)]
        assert signals["loss"][-2:] == [90.0, 1.5]
        assert signals["skipped"][-2:] == [1.0, 0.0]
        assert signals["lr"][-1] == 0.1
        assert all(math.isnan(value) for value in signals["lr"][:-1])

    def test_are_forgotten_after_a_while(self):
        told = Told(last=50 + SHOWN)

        assert told.chronicle.rows({50}) == []
        assert [row["step"] for row in told.chronicle.rows({51, 60})] == [51.0, 60.0]
        assert math.isnan(told.chronicle.as_step(50).loss)
        assert told.chronicle.as_step(51).loss == 1.0


class TestSkips:
    def test_in_a_row_are_one_incident_that_grows(self):
        told = Told()
        for number in (61, 62):
            told.skip(number)

        (incident,) = told.chronicle.incidents
        assert (incident.step, incident.detected, incident.lost_steps) == (61, 62, 2)
        assert incident.suspects == {"steps": [61, 62]}
        assert incident.action.startswith("2 steps were left out; ")
        assert incident.limits == {
            "loss_level": 1.0,
            "loss_limit": 3.0,
            "norm_level": 2.0,
            "norm_limit": 5.0,
        }
        assert [step for step, *_ in told.folders.written] == [61]

    def test_after_the_cause_was_looked_for_keep_what_was_found(self):
        told = Told()
        told.skip(61)
        told.chronicle.enter_verdict(verdict_of(Change(lr_cap=0.1)), 61, "skip", "Found.")
        told.standing.escalated = True

        told.skip(62)

        (incident,) = told.chronicle.incidents
        assert (incident.finding.code, incident.action) == ("TT450", "Found.")
        assert (incident.detected, incident.lost_steps) == (62, 1)

    def test_name_the_examples_at_fault_which_are_looked_for_once(self):
        told = Told()
        told.rows = {"rows": [3, 7], "row_losses": [90.0, math.nan]}
        for number in (61, 62):
            told.skip(number)

        (incident,) = told.chronicle.incidents
        assert incident.finding.what.endswith("; examples 3 (loss 90), 7 (loss nan) are at fault")
        assert incident.suspects == {"steps": [61, 62], **told.rows}
        assert told.looked == [(0, told.standing.limits)]

    def test_are_warned_of_the_first_times_only(self):
        told = Told()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for number in range(61, 61 + 2 * TOLD + 2, 2):
                told.standing.streak.clear()
                told.skip(number)

        assert len(told.chronicle.incidents) == TOLD + 1
        assert [w.category for w in caught] == [StabilityWarning] * TOLD
        assert len(told.folders.written) == TOLD + 1


class TestOtherIncidents:
    def test_that_are_observed_are_neither_said_nor_written(self):
        told = Told(60)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            told.chronicle.enter_observed(60)
            told.standing.streak.append(61)
            told.chronicle.enter_observed(61)

        (incident,) = told.chronicle.incidents
        assert (incident.step, incident.detected, incident.kind) == (60, 61, "observed")
        assert incident.finding.what.startswith("loss 90 and gradient norm 2")
        assert told.folders.written == []

    def test_of_micro_batches_name_them(self):
        told = Told()
        micro_steps = [
            MicroStep(float, 1.0, 1.0, None, loss=loss, dropped=loss > 9) for loss in (1.0, 90.0)
        ]

        told.chronicle.enter_dropped(1, 2, step_of(60, 1.0, micro_steps=micro_steps))

        (incident,) = told.chronicle.incidents
        assert incident.finding.what == (
            "1 of 2 micro-batches (number 2) had a loss or gradient that is not finite or far out: "
            "loss 90"
        )
        assert incident.suspects == {"steps": [60], "micro_batches": [1]}
        assert told.looked == [(1, told.standing.limits)]
        assert told.folders.written == [(60, [60], None, True)]

    def test_that_were_made_good_have_the_replay_with_them(self):
        told = Told(60)
        row = Experiment(
            change=Change(),
            steps=(60,),
            losses=(1.0,),
            norms=(2.0,),
            probe=math.nan,
            healed=True,
            reproduced=False,
            seconds=0.0,
        )

        told.chronicle.enter_made_again(step_of(60, 90.0), row)

        (incident,) = told.chronicle.incidents
        assert (incident.finding.code, incident.lost_steps) == ("TT603", 0)
        assert incident.experiments == (row,)

    def test_whose_cause_is_known_take_the_place_of_their_skip(self):
        told = Told()
        told.skip(61)
        kept = [step_of(59, 1.0), step_of(60, 1.0)]

        with pytest.warns(StabilityWarning, match=r"TT450 rate-jump.* Back\."):
            told.chronicle.enter_verdict(
                verdict_of(Change(lr_cap=0.1), lost=frozenset({61})),
                61,
                "rollback",
                "Back.",
                tape=kept,
            )

        (incident,) = told.chronicle.incidents
        assert (incident.step, incident.kind, incident.lost_steps) == (61, "rollback", 1)
        assert [numbers for _, numbers, *_ in told.folders.written] == [[], [59, 60]]
