"""Whole runs with the guard on, against runs that never met the fault."""

import warnings

import pytest
import torch
from tests.guard.conftest import BAD, jump, kinds, once, reset, spoilt, warm
from torch import nn

from trimtab import DivergedError, StabilityWarning, Stepper
from trimtab.guard import Guard, _active
from trimtab.precision import LossScaler


class TestHealthyRuns:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_are_left_as_they_are_bit_for_bit(self, compare, way, seed):
        job = compare(way | {"seed": seed})

        assert kinds(job) == []
        assert job.stepper.skipped_steps == 0

    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_with_a_warm_up_too(self, compare, optimizer):
        settings = {"optimizer": optimizer, "schedule": warm, "norm": True}

        assert kinds(compare(settings, last=150)) == []

    def test_snapshots_draw_nothing(self, make_job, same):
        job = make_job(norm=True, dropout=0.2).run(1, 20)
        before = torch.get_rng_state()

        job.guard._gear.take_snapshot(job.guard.number)

        same(before, torch.get_rng_state())

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_in_mixed_precision(self, compare, precision):
        assert kinds(compare({"precision": precision, "dropout": 0.2})) == []

    def test_overflows_that_find_the_loss_scale_are_no_incidents(self, make_job):
        job = make_job(precision="fp16", scaler=LossScaler(2.0**24)).run(1, 80)

        assert 3 < job.stepper.skipped_steps < _active.OVERFLOWS  # one after the other
        assert kinds(job) == []
        assert job.results[-1].stepped


class TestBadBatches:
    @pytest.mark.parametrize("kind", BAD)
    def test_one_is_as_if_it_had_never_been(self, compare, way, kind):
        """Parameters, statistics, moments, counters, schedule: as without it, bit for bit."""
        job = compare(way, bad=spoilt(kind, 60), without=(60,))

        assert kinds(job) == [(60, "skip", "TT512")]
        assert job.stepper.skipped_steps == 1
        assert job.incidents[0].lost_steps == 1
        assert job.incidents[0].suspects == {"steps": [60]}

    def test_an_incident_says_what_was_seen(self, make_job):
        with pytest.warns(StabilityWarning, match="TT512 bad-batch") as caught:
            job = make_job().run(1, 80, bad=spoilt("nan", 60))

        incident = job.incidents[0]
        assert incident.action == (
            "1 step was left out; parameters, optimizer and buffers are untouched."
        )
        assert incident.finding.what == (
            "loss nan and gradient norm nan, which do not happen without the data of step 60"
        )
        assert incident.signals["step"][-1] == 60
        assert incident.signals["skipped"][-2:] == [0.0, 1.0]
        assert 0 < incident.limits["loss_level"] < incident.limits["loss_limit"]
        assert len(caught) == 1

    @pytest.mark.parametrize("kind", BAD)
    def test_a_burst_is_one_incident_and_no_reason_to_go_back(self, compare, way, kind):
        steps = range(60, 65)

        job = compare(way, bad=spoilt(kind, *steps), without=tuple(steps))

        assert kinds(job) == [(60, "skip", "TT512")]
        incident = job.incidents[0]
        assert incident.action == "Its data are left out; the state is sound."
        assert (incident.lost_steps, incident.detected) == (5, 64)
        assert incident.suspects["steps"] == [60, 61, 62, 63, 64]

    def test_endless_ones_end_the_run_as_the_last_good_step_left_it(self, make_job, same):
        job = make_job(norm=True, max_skips=12)
        job.run(1, 59)
        before = job.state()

        with pytest.raises(DivergedError, match="13 steps in a row"):
            job.run(60, 100, bad=spoilt("nan", *range(60, 101)))

        after = job.state()
        before.pop("random"), after.pop("random")
        same(after, before)
        assert kinds(job) == [(60, "skip", "TT512")]

    def test_a_lasting_change_of_level_is_accepted_in_the_end(self, make_job):
        job = make_job(seed=3)

        job.run(1, 140, bad=lambda step, x, y: (x, y + 8.0 if step >= 60 else y))

        assert job.stepper.skipped_steps == 16  # what the policy calls patience
        assert all(result.stepped for result in job.results[76:])
        assert job.results[-1].loss < job.results[80].loss
        assert kinds(job) == [(60, "skip", "TT512")]

    def test_too_large_a_share_has_the_cause_looked_for(self, make_job):
        """One in three is bad, never two in a row, so that no streak gets long."""
        steps = range(60, 190, 3)
        job = make_job(guard=Guard(policy=lambda loss, norm: loss > 200))

        job.run(1, 190, bad=spoilt("garbage labels", *steps))

        late = [i for i in job.incidents if i.experiments]
        assert late
        assert {i.finding.code for i in late} == {"TT512"}
        assert late[0].step > 100
        assert job.stepper.skipped_steps == len(steps)

    @pytest.mark.parametrize("kind", ["nan", "garbage labels"])
    def test_the_loss_scale_is_none_of_the_datas_business(self, make_job, kind):
        job = make_job(precision="fp16", scaler=LossScaler(2.0**10))

        job.run(1, 70, bad=spoilt(kind, 60, 61))

        assert float(job.stepper.scaler.scale) == 2.0**10


class TestObserving:
    @pytest.mark.parametrize("kind", ["times 1000", "garbage labels"])
    def test_changes_nothing(self, compare, kind):
        settings = {"guard": "observe", "norm": True, "dropout": 0.2}

        job = compare(settings, bad=spoilt(kind, 60, 61, 62, 63))

        assert kinds(job)[0] == (60, "observed", "TT512")
        assert job.stepper.skipped_steps == 0
        assert job.incidents[0].action == "Nothing was done: the guard only observes."

    def test_a_streak_is_one_incident(self, make_job):
        job = make_job(guard="observe", optimizer="sgd", lr=1e-4)

        job.run(1, 80, bad=spoilt("garbage labels", 60, 61, 62, 70))

        assert [(i.step, i.detected) for i in job.incidents] == [(60, 62), (70, 70)]
        assert job.incidents[0].suspects == {"steps": [60, 61, 62]}

    def test_keeps_neither_snapshots_nor_batches(self, make_job):
        job = make_job(guard="observe").run(1, 40)

        assert job.guard.ring is None
        assert len(job.guard.tape) == 0


class TestResume:
    @pytest.mark.parametrize("stop", [40, 59, 60, 61, 63, 66])
    def test_goes_on_bit_for_bit(self, make_job, same, stop):
        """Before, in the middle of and after a streak; the snapshots are new, the memory is not."""
        settings = {"norm": True, "dropout": 0.2, "schedule": warm}
        bad = spoilt("garbage labels", 60, 61, 62, 63, 64, 80)
        reset()
        whole = make_job(**settings).run(1, 120, bad=bad)
        left = whole.state()
        reset()
        first = make_job(**settings).run(1, stop, bad=bad)
        saved = first.stepper.state_dict(), first.model.state_dict()

        second = make_job(**settings)
        second.model.load_state_dict(saved[1])
        second.stepper.load_state_dict(saved[0])
        second.run(stop + 1, 120, bad=bad)

        same(second.state(), left)
        memory, theirs = (job.guard.policy.state_dict() for job in (second, whole))
        same(memory, theirs)
        steps = [r.skipped for r in first.results + second.results]
        assert steps == [r.skipped for r in whole.results]
        assert second.incidents[-1].step == 80

    def test_keeps_what_an_incident_has_taught(self, make_job):
        job, resumed = make_job(), make_job()
        job.run(1, 80, before=once(60, lambda: jump(job)))
        job.guard.norm_limit = 2.0

        resumed.model.load_state_dict(job.model.state_dict())
        resumed.stepper.load_state_dict(job.stepper.state_dict())

        assert resumed.guard.rates.cap == 0.01
        assert resumed.guard.norm_limit == 2.0
        assert resumed.guard.number == 80


class TestWarnings:
    def test_come_for_the_first_three_skips_only(self, make_job):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            job = make_job().run(1, 160, bad=spoilt("nan", 60, 75, 90, 105, 120))

        assert len(job.incidents) == 5
        assert len([w for w in caught if "TT512" in str(w.message)]) == 3


def test_a_loss_in_closed_form_and_a_policy_of_the_users_own():
    """The smallest run there is: one weight, a limit on the norm, no randomness."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stepper = Stepper(
        model, optimizer, clip=None, schedule="constant", guard=lambda loss, norm: norm > 100
    )
    for factor in (1.0, 1e3, 1.0):
        stepper.backward(lambda factor=factor: factor * model.weight.square().sum() / 2)
        stepper.step()

    assert model.weight.item() == pytest.approx(4.0 * 0.9**2)
    assert [(i.step, i.finding.code) for i in stepper.guard.incidents] == [(2, "TT512")]
