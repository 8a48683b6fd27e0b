"""Whole runs with the guard on, against runs that never met the fault."""

import errno
import json
import warnings

import pytest
import torch
from torch import nn

from trimtab import DivergedError, StabilityWarning, Stepper
from trimtab.guard import Guard, _active
from trimtab.guard._bundle import list_bundles, read_bundle
from trimtab.optim import warmup_cosine
from trimtab.precision import LossScaler

NAN, HUGE = float("nan"), 1e3

BAD = {
    "nan": lambda x, y: (x * NAN, y),
    "times 1000": lambda x, y: (x * HUGE, y * HUGE),
    "garbage labels": lambda x, y: (x, 50 * y.flip(0)),
}


def spoilt(kind, *steps):
    return lambda step, x, y: BAD[kind](x, y) if step in steps else (x, y)


def once(step, action):
    """Return what does something before one step."""
    return lambda now: action() if now == step else None


def warm(optimizer):
    return warmup_cosine(optimizer, warmup_steps=20, total_steps=200)


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


def reset():
    torch.random.manual_seed(7)


def kinds(job):
    return [(i.step, i.kind, i.finding.code) for i in job.incidents]


WAYS = {
    "plain": {},
    "batch norm and dropout": {"norm": True, "dropout": 0.2, "optimizer": "momentum"},
    "accumulated": {"norm": True, "dropout": 0.2, "accumulate": 4},
    "fused": {"optimizer": "adam fused", "schedule": warm},
    "as an accelerator": {"norm": True, "dropout": 0.2, "at_once": False},
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture
def compare(make_job, same):
    """Run a guarded job, then a bare one from the same random state, and compare all they left."""

    def check(settings, last=100, *, without=(), bad=None, before=None):
        bad = {} if bad is None else {"bad": bad}
        reset()
        job = make_job(**settings)
        job.run(1, last, **bad, before=(lambda step: None) if before is None else before(job))
        left = job.state()
        reset()
        clean = make_job(**settings | {"guard": None})
        bad = {} if before is not None else bad
        same(left, clean.run(1, last, **bad, without=without).state())
        return job

    return check


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

        job.guard._take_snapshot()

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


def change_weight(job):
    job.model[-1].weight.data[0, 0] *= 2.0**14  # as a flipped bit of the exponent does


def change_moment(job):
    state = job.optimizer.state[job.model[-1].weight]
    state["exp_avg" if "exp_avg" in state else "momentum_buffer"][0, 0] += 1e4


def change_gradient(job):
    hook = job.model[-1].weight.register_hook(lambda grad: (hook.remove(), grad * 2.0**20)[1])


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

    def test_before_the_first_snapshot_is_confirmed_is_undone_too(self, compare):
        """None has proved itself yet; the newest from before the incident has to do."""
        settings = {"guard": Guard(delay=500)}

        job = compare(settings, before=lambda job: once(60, lambda: change_weight(job)))

        assert kinds(job) == [(60, "rollback", "TT603")]


class TestLearningRate:
    def jump(self, job, *, factor=300):
        job.optimizer.param_groups[0]["lr"] *= factor

    def test_a_jump_is_named_and_held(self, make_job, same):
        job = make_job()
        job.run(1, 100, before=once(60, lambda: self.jump(job)))
        clean = make_job(guard=None).run(1, 100)

        ((_, kind, code),) = kinds(job)
        assert (kind, code) == ("rollback", "TT450")
        assert job.incidents[0].action.endswith("The learning rate is held at 0.01.")
        assert job.guard.rates.cap == 0.01
        assert job.optimizer.param_groups[0]["lr"] == 3.0  # the user's own
        same(job.state()["model"], clean.state()["model"])

    def test_the_hold_ends_when_less_is_asked_for(self, make_job, same):
        job = make_job()
        job.run(1, 80, before=once(60, lambda: self.jump(job)))

        job.run(81, 100, before=lambda _step: self.jump(job, factor=0.5))

        assert job.guard.rates.cap is None
        assert job.results[-1].lr == pytest.approx(3.0 * 0.5**20)

    def test_is_left_alone_if_so_told(self, make_job):
        job = make_job(guard=Guard(apply=False, max_rollbacks=1))

        with pytest.raises(DivergedError, match="gone back to a healthy state 2 times"):
            job.run(1, 100, before=once(60, lambda: self.jump(job)))

        assert job.guard.rates.cap is None
        assert [i.kind for i in job.incidents] == ["rollback", "stop"]

    def test_replays_use_the_rates_that_the_guard_had_set(self, make_job):
        """Else a second replay would differ from the record, and something outside be blamed."""
        job = make_job()
        job.run(1, 70, before=once(60, lambda: self.jump(job)))
        assert job.guard.rates.cap == 0.01
        job.guard.norm_limit = 0.5

        job.run(71, 90)

        steps = job.guard.tape.since(job.guard.ring.newest().step)
        assert {group["lr"] for step in steps for group in step.settings} == {0.01}
        late = job.guard.ring.newest()
        random = torch.get_rng_state()
        job.guard.ring.restore(late)
        replay = job.guard.replayer.run(steps)
        torch.set_rng_state(random)
        assert len(steps) > 0
        assert steps[-1].norm_limit == 0.5
        assert replay.first_difference is None


class TestGoingBackWithoutReplays:
    @pytest.mark.parametrize(
        "settings",
        [{"explain": False}, {"tape_bytes": 0}, {"explain_s": 0.0}, {"tape_bytes": 1}],
        ids=str,
    )
    def test_takes_the_last_healthy_state_and_warms_up(self, make_job, settings):
        job = make_job(guard=Guard(**settings), norm=True)

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
        job = make_job(guard=Guard(explain=False, max_rollbacks=2))

        def break_it(step):
            if step >= 60 and step % 5 == 0:
                change_weight(job)

        with pytest.raises(DivergedError, match=r"more than max_rollbacks=2.*save it"):
            job.run(1, 200, before=break_it)

        assert [i.kind for i in job.incidents] == ["rollback", "rollback", "stop"]
        assert "was stopped: it had gone back 2 times" in job.incidents[-1].action
        with torch.no_grad():
            assert job.loss(*job.batch(59)) < 2.0  # what it was in health

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
        job.run(1, 80, before=once(60, lambda: TestLearningRate().jump(job)))
        job.guard.norm_limit = 2.0

        resumed.model.load_state_dict(job.model.state_dict())
        resumed.stepper.load_state_dict(job.stepper.state_dict())

        assert resumed.guard.rates.cap == 0.01
        assert resumed.guard.norm_limit == 2.0
        assert resumed.guard.number == 80


class TestFolders:
    def test_hold_what_repeats_a_skip(self, make_job, tmp_path):
        """Some healthy steps before it as well, for a replay to be judged on."""
        job = make_job(guard=Guard(out=tmp_path)).run(1, 70, bad=spoilt("times 1000", 60))

        (folder,) = list_bundles(tmp_path)
        bundle = read_bundle(folder)
        assert folder.name == "step-00000060"
        first = bundle.snapshot["step"]
        assert bundle.incident.snapshot_step == job.incidents[0].snapshot_step == first
        assert 60 - _active.CONTEXT <= first < 60
        assert [b["number"] for b in bundle.batches] == list(range(first + 1, 61))
        assert bundle.batches[-1]["skipped"]
        assert torch.equal(
            bundle.batches[-1]["micro_steps"][0]["batch"]["a"], job.batch(60)[0] * HUGE
        )

    def test_hold_the_state_of_before_a_step_that_was_made_again(self, make_job, tmp_path):
        job = make_job(guard=Guard(out=tmp_path, snapshots=0))
        clean = make_job(guard=None).run(1, 59)

        job.run(1, 70, before=once(60, lambda: change_gradient(job)))

        bundle = read_bundle(list_bundles(tmp_path)[0])
        weight = bundle.snapshot["model"]["0.weight"]
        assert bundle.snapshot["step"] == 59
        assert torch.equal(weight, clean.model[0].weight)

    def test_of_one_streak_are_one(self, make_job, tmp_path):
        job = make_job(guard=Guard(out=tmp_path))
        job.run(1, 90, before=once(60, lambda: change_weight(job)))

        (folder,) = list_bundles(tmp_path)
        incident = json.loads((folder / "incident.json").read_text())
        assert folder.name == "step-00000060"
        assert (incident["kind"], incident["finding"]["code"]) == ("rollback", "TT603")

    def test_are_no_more_than_asked_for(self, make_job, tmp_path):
        guard = Guard(out=tmp_path, keep_incidents=2)

        make_job(guard=guard).run(1, 110, bad=spoilt("times 1000", 60, 70, 80, 90))

        assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000060", "step-00000070"]

    def test_a_return_takes_the_place_of_a_skip(self, make_job, tmp_path):
        job = make_job(guard=Guard(out=tmp_path, keep_incidents=2))

        job.run(
            1,
            110,
            bad=spoilt("times 1000", 60, 70, 80),
            before=once(90, lambda: change_weight(job)),
        )

        assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000070", "step-00000090"]

    @pytest.mark.parametrize("keep", [0, 3])
    def test_without_a_place_nothing_is_written(self, make_job, tmp_path, keep):
        out = tmp_path if keep == 0 else None
        make_job(guard=Guard(out=out, keep_incidents=keep)).run(1, 70, bad=spoilt("nan", 60))

        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_is_said_once_and_training_goes_on(self, make_job, tmp_path, monkeypatch):
        def full(*_args, **_options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(_active, "write_bundle", full)
        job = make_job(guard=Guard(out=tmp_path))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            job.run(1, 100, bad=spoilt("times 1000", 60, 70, 80))

        said = [str(w.message) for w in caught if "could not be written" in str(w.message)]
        assert said == [
            f"The incident of step 60 could not be written to {tmp_path}: No space left on device. "
            "It is in memory, and training goes on."
        ]
        assert [i.step for i in job.incidents] == [60, 70, 80]
        assert job.results[-1].stepped


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
