"""Whole runs that the guard has to put back, against runs that never met the fault."""

import pytest
import torch
from tests.guard.conftest import (
    NAN,
    WAYS,
    change_gradient,
    change_moment,
    change_weight,
    jump,
    kinds,
    once,
    reset,
    warm,
)

from trimtab import DivergedError
from trimtab.guard import Guard


class TestCorruptedState:
    @pytest.mark.parametrize("way", [w for w in WAYS if w != "as an accelerator"], indirect=True)
    @pytest.mark.parametrize("fault", [change_weight, change_moment])
    def test_is_undone_bit_for_bit(self, compare, way, fault):
        job = compare(way, before=lambda job: once(60, lambda: fault(job)))

        ((step, kind, code),) = kinds(job)
        assert (kind, code) == ("rollback", "TT603")
        assert step in {60, 61}
        first = job.incidents[0].experiments[-1]
        assert (first.healed, first.reproduced) == (True, False)
        assert job.incidents[0].lost_steps == 0

    @pytest.mark.parametrize("way", ["plain", "batch norm and dropout", "fused"], indirect=True)
    def test_of_a_gradient_has_the_step_made_again(self, compare, way):
        job = compare(way, before=lambda job: once(60, lambda: change_gradient(job)))

        assert kinds(job) == [(60, "skip", "TT603")]
        assert job.incidents[0].action == "The step was made again, and went well."
        assert job.incidents[0].lost_steps == 0
        assert job.stepper.skipped_steps == 0
        assert job.results[59].stepped
        assert job.guard.healthy

    def test_of_a_gradient_in_one_micro_batch_costs_only_that(self, make_job):
        job = make_job(accumulate=4, seed=1)

        job.run(1, 80, before=once(60, lambda: change_gradient(job)))

        assert kinds(job) == [(60, "skip", "TT512")]
        assert job.incidents[0].suspects["micro_batches"] == [0]
        assert job.stepper.skipped_steps == 0

    @pytest.mark.parametrize("fault", [change_weight, change_moment])
    def test_on_an_accelerator_costs_the_open_window(self, make_job, same, fault):
        """The outcome of a step is read in the next one, whose gradients are then worthless."""
        settings = {"at_once": False, "norm": True, "dropout": 0.2}
        reset()
        job = make_job(**settings)
        job.run(1, 100, before=once(60, lambda: fault(job)))
        (incident,) = job.incidents
        abandoned = incident.detected + 1
        assert job.results[abandoned - 1].skipped
        left = job.state()
        reset()
        clean = make_job(**settings | {"guard": None}).run(1, 100, without=(abandoned,))

        assert incident.finding.code == "TT603"
        same(left["model"], clean.state()["model"])
        same(left["optimizer"], clean.state()["optimizer"])

    def test_on_an_accelerator_counter_and_schedule_go_back_with_the_state(self, make_job):
        job = make_job(at_once=False, schedule=warm)

        job.run(1, 100, before=once(60, lambda: change_weight(job)))

        assert job.stepper.steps == 99  # without the open window
        assert job.stepper.schedule.last_epoch == 99

    def test_before_the_first_snapshot_is_confirmed_is_undone_too(self, compare):
        """None has proved itself yet; the newest from before the incident has to do."""
        settings = {"guard": Guard(delay=500)}

        job = compare(settings, before=lambda job: once(60, lambda: change_weight(job)))

        assert kinds(job) == [(60, "rollback", "TT603")]


class TestLearningRate:
    def test_a_jump_is_named_and_held(self, make_job, same):
        job = make_job()
        job.run(1, 100, before=once(60, lambda: jump(job)))
        clean = make_job(guard=None).run(1, 100)

        ((_, kind, code),) = kinds(job)
        assert (kind, code) == ("rollback", "TT450")
        assert job.incidents[0].action.endswith(
            "From now on the learning rate is divided by its jump, 300."
        )
        assert job.guard.rates.cap == 0.01
        assert job.optimizer.param_groups[0]["lr"] == 3.0  # the user's own
        same(job.state()["model"], clean.state()["model"])

    def test_the_hold_ends_when_the_rate_is_ordinary_again(self, make_job):
        job = make_job()
        job.run(1, 80, before=once(60, lambda: jump(job)))

        job.run(81, 110, before=once(81, lambda: jump(job, factor=1 / 300)))

        assert job.guard.rates.cap is None
        assert len(job.incidents) == 1

    def test_is_left_alone_if_so_told(self, make_job):
        job = make_job(guard=Guard(apply=False))

        job.run(1, 63, before=once(60, lambda: jump(job)))

        assert [code for *_, code in kinds(job)] == ["TT450"]
        assert job.incidents[0].action.endswith("learning rate of at most 0.01.")
        assert job.guard.rates.cap is None

    def test_replays_use_the_rates_that_the_guard_had_set(self, make_job):
        """Else a second replay would differ from the record, and something outside be blamed."""
        job = make_job(guard=Guard(snapshots=100))
        job.run(1, 70, before=once(60, lambda: jump(job)))
        assert job.guard.rates.cap == 0.01
        job.guard._gear.take_snapshot(job.guard.number)
        job.guard.norm_limit = 0.5

        job.run(71, 90)

        late = next(s for s in job.guard.ring.snapshots if s.step == 70)
        steps = job.guard.tape.since(70)
        assert {group["lr"] for step in steps for group in step.settings} == {0.01}
        random = torch.get_rng_state()
        job.guard.ring.restore(late)
        replay = job.guard.replayer.run(steps)
        torch.set_rng_state(random)
        assert len(steps) == 20
        assert steps[-1].norm_limit == 0.5
        assert replay.first_difference is None


class TestGoingBackWithoutReplays:
    @pytest.mark.parametrize(
        "settings",
        [{"explain": False}, {"tape_bytes": 0}, {"explain_s": 0.0}, {"tape_bytes": 1}],
        ids=str,
    )
    def test_takes_the_last_healthy_state_and_warms_up(self, make_job, settings):
        job = make_job(guard=Guard(**settings, overhead=0.9), norm=True)

        job.run(1, 120, before=once(60, lambda: change_weight(job)))

        assert kinds(job)[0] == (60, "rollback", "TT310")
        incident = job.incidents[0]
        assert incident.snapshot_step < 60
        assert incident.lost_steps == 62 - incident.snapshot_step
        assert "warms up again" in incident.action
        assert [r.stepped for r in job.results[62:]] == [True] * 58
        assert job.results[-1].loss < 2 * job.results[55].loss

    def test_the_rate_comes_back_over_some_steps(self, make_job):
        job = make_job(guard=Guard(explain=False, rewarm=10))
        job.run(1, 62, before=once(60, lambda: change_weight(job)))
        used = []
        for step in range(63, 75):
            job.run(step, step)
            used.append(job.guard.rates.used)

        assert used[0] == pytest.approx([0.001])
        assert used[5] == pytest.approx([0.0055])
        assert used[10:] == [None, None]

    def test_ends_after_some_tries_with_the_state_of_the_snapshot(self, make_job):
        job = make_job(guard=Guard(explain=False, max_rollbacks=2, overhead=0.9))

        def break_it(step):
            if step in {60, 100, 140}:
                change_weight(job)

        with pytest.raises(DivergedError, match=r"more than max_rollbacks=2.*save it"):
            job.run(1, 200, before=break_it)

        assert [i.kind for i in job.incidents] == ["rollback", "rollback", "stop"]
        assert "was stopped: it had gone back 2 times" in job.incidents[-1].action
        with torch.no_grad():
            assert job.loss(*job.batch(59)) < 2.0  # as in health

    def test_without_snapshots_there_is_only_leaving_out(self, make_job):
        job = make_job(guard=Guard(snapshots=0), max_skips=20)

        with pytest.raises(DivergedError, match="steps in a row"):
            job.run(1, 120, before=once(60, lambda: job.model[-1].weight.data.mul_(NAN)))

        assert kinds(job) == [(60, "skip", "TT512")]

    def test_with_too_little_memory_it_says_so_and_goes_on(self, make_job):
        job = make_job(guard=Guard(memory_bytes=100), max_skips=200)
        with pytest.warns(UserWarning, match="There is no state to roll back to"):
            job.run(1, 80, before=once(60, lambda: change_weight(job)))

        assert kinds(job)[0] == (60, "skip", "TT310")
        assert job.incidents[0].action == (
            "Its steps are left out; there is no other state to go back to."
        )

    def test_a_batch_that_was_written_over_cannot_be_replayed(self, make_job):
        """A loop that fills the same tensors each time: go back, and do not fall over."""
        job = make_job()
        x, y = job.batch(0)

        def reused(step, a, b):
            return x.copy_(a), y.copy_(b)

        job.run(1, 90, bad=reused, before=once(60, lambda: change_weight(job)))

        assert kinds(job)[0] == (60, "rollback", "TT310")
        assert job.results[-1].stepped

    def test_a_loss_given_as_a_tensor_cannot_be_replayed(self, make_job):
        job = make_job()

        def run(first, last):
            for step in range(first, last + 1):
                job.stepper.backward(job.loss(*job.batch(step)))
                job.results.append(job.stepper.step())

        run(1, 59)
        change_weight(job)
        run(60, 90)

        assert kinds(job)[0] == (60, "rollback", "TT310")
        assert job.results[-1].stepped
