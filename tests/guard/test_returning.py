"""How a run is put back, and with what it goes on."""

from types import SimpleNamespace

import pytest
import torch

from trimtab import DivergedError
from trimtab.guard import Change, Guard, Limits, Tape, TapeStep
from trimtab.guard._naming import describe
from trimtab.guard._rates import Rates
from trimtab.guard._returning import ROLLBACK_SPAN, Returning
from trimtab.guard._standing import Standing
from trimtab.guard._verdict import Verdict
from trimtab.guard.tt310_unexplained_incident import UnexplainedIncident

BASE = SimpleNamespace(step=40, healthy=True)


class FakeChronicle:
    """Notes what was entered."""

    def __init__(self):
        self.incidents, self.entered = [], []

    def enter_verdict(self, verdict, first_bad, kind, action, *, tape=None):
        self.entered.append((first_bad, kind, action))
        self.incidents.append(SimpleNamespace(finding=verdict.finding))

    def rows(self, numbers):
        return []

    def as_step(self, number):
        return None


class FakeRing:
    """Has one snapshot."""

    def __init__(self):
        self.snapshots, self.restored = [BASE], []

    def restore(self, snapshot):
        self.restored.append(snapshot.step)

    def drop_after(self, step):
        self.dropped_after = step


def step_of(number, rate):
    return TapeStep(number, [], [{"lr": rate}], 1.0, 1.0, 1.0, skipped=False, flagged=False)


class Case:
    """A run that is at step 63, whose steps from 61 on are bad.

    Args:
        change: What an investigation finds to remove the incident.
        restored: Whether it has put the state back for that.
        replays: Whether steps can be replayed at all.
        parts: What else goes back.
    """

    def __init__(self, change=None, *, restored=True, replays=True, parts=(), apply=None, **guard):
        self.weight = torch.ones(2, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.applied, self.snapshots, self.chronicle = [], [], FakeChronicle()
        self.standing = Standing(number=63, streak=[61, 62, 63], escalated=True)
        finding = describe(UnexplainedIncident(), change, Limits(), None, 61, num_replays=1)
        self.verdict = Verdict(
            finding=finding,
            experiments=(),
            change=change,
            restored=restored,
            snapshot=BASE if restored else None,
            lost=frozenset({62}),
        )
        self.gear = SimpleNamespace(
            config=Guard(**guard),
            live=SimpleNamespace(optimizers=[self.optimizer], parts=parts),
            rates=Rates([self.optimizer], rewarm=20),
            keeper=SimpleNamespace(renew=lambda: None),
            ring=FakeRing(),
            tape=Tape(),
            keeps_tape=replays,
            agree=lambda yes: yes,
            read_limits=lambda: [Limits()],
            take_snapshot=self.snapshots.append,
            investigation=lambda *_, **__: SimpleNamespace(
                can_replay=lambda _steps: True, run=self._run
            ),
        )
        for number in range(41, 64):
            self.gear.tape.add(step_of(number, 0.1 if number < 60 else 30.0))
        self.returning = Returning(
            self.gear, self.standing, self.chronicle, apply=apply or self.applied.append
        )

    def _run(self, *, corrupt):
        self.corrupt = corrupt
        self.optimizer.param_groups[0]["lr"] = 7.0  # as replays leave it
        torch.rand(1)
        return self.verdict

    def escalate(self, **options):
        with torch.random.fork_rng():
            return self.returning.escalate(61, **options)


class TestGoingBack:
    def test_leaves_a_run_that_begins_anew_there(self):
        case = Case(Change())

        assert case.escalate()

        assert (case.standing.streak, case.standing.escalated) == ([], False)
        assert case.standing.stale_until == 63
        assert case.standing.num_made_again == 2  # of three, one is lost
        assert (case.gear.ring.dropped_after, case.snapshots) == (40, [63])
        assert len(case.gear.tape) == 0

    def test_draws_no_random_numbers(self):
        case = Case(Change())
        before = torch.get_rng_state()

        case.returning.escalate(61)

        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize(("parts", "rate"), [((), 0.1), (("schedule",), 7.0)])
    def test_keeps_the_users_settings_unless_a_schedule_went_back_too(self, parts, rate):
        case = Case(Change(), parts=parts)

        case.escalate()

        assert case.optimizer.param_groups[0]["lr"] == rate

    def test_without_a_cause_warms_up_again(self):
        case = Case(None)

        case.escalate()

        assert case.gear.rates.changes
        assert case.gear.rates.factor == 1
        assert case.chronicle.entered == [
            (61, "rollback", "The run went back to step 40 and warms up again; 1 step is lost.")
        ]

    @pytest.mark.parametrize(("apply", "factor"), [(True, 0.5), (False, 1.0)])
    def test_after_a_divergence_halves_the_rate(self, apply, factor):
        case = Case(None)
        object.__setattr__(case.gear.config, "apply", apply)

        case.escalate(diverged=True)

        assert case.gear.rates.factor == factor

    def test_without_replays_takes_the_snapshot(self):
        case = Case(replays=False)

        assert case.escalate(corrupt=True)

        assert case.gear.ring.restored == [40]
        assert case.chronicle.incidents[0].finding.code == "TT310"

    def test_without_a_ring_is_none(self):
        case = Case(Change())
        case.gear.ring = None

        assert not case.escalate()
        assert case.chronicle.entered == []


class TestStaying:
    def test_is_an_incident_that_is_over(self):
        case = Case(Change(without=frozenset({61, 62, 63})), restored=False)

        assert not case.escalate()

        assert case.chronicle.entered == [
            (61, "skip", "Its data are left out; the state is sound.")
        ]
        assert case.standing.streak == [61, 62, 63]
        assert case.snapshots == []

    def test_keeps_up_what_helped_besides(self):
        case = Case(Change(precision="fp32"), restored=False)

        case.escalate()

        assert case.applied == [Change(precision="fp32")]
        assert case.chronicle.entered[0][2].endswith(" From now on it runs in fp32.")


class TestKeepingUp:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (Change(lr_cap=0.1), " From now on the learning rate is divided by its jump, 300."),
            (Change(lr=0.5), " The learning rate stays at 0.5 of the schedule's."),
            (Change(clip=2.0), " Gradients are clipped to 2 from now on."),
            (Change(attention_cap=50.0), " From now on it runs attention logits capped at 50."),
            (Change(fresh_moments=True), "fresh moments of the optimizer; 1 step is left out."),
            (Change(), "as it was; 1 step is left out."),
        ],
    )
    def test_is_said(self, change, words):
        case = Case(change)

        case.escalate()

        assert case.chronicle.entered[0][2].endswith(words)

    def test_sets_what_it_says(self):
        jump, slower, clipped = (
            Case(change) for change in (Change(lr_cap=0.1), Change(lr=0.5), Change(clip=2.0))
        )
        for case in (jump, slower, clipped):
            case.escalate()

        assert (jump.gear.rates.cap, jump.gear.rates.jump) == (0.1, pytest.approx(300))
        assert slower.gear.rates.factor == 0.5
        assert clipped.standing.norm_limit == 2.0
        assert not any(case.applied for case in (jump, slower, clipped))

    def test_says_nothing_where_it_cannot(self):
        case = Case(Change(precision="fp32"), apply=lambda _change: False)

        case.escalate()

        assert case.chronicle.entered[0][2].endswith("in fp32; 1 step is left out.")

    def test_can_be_forbidden(self):
        case = Case(Change(clip=2.0))
        object.__setattr__(case.gear.config, "apply", False)

        case.escalate()

        assert case.standing.norm_limit is None


class TestTooManyReturns:
    def test_end_the_run_in_a_sound_state(self):
        case = Case(Change(), max_rollbacks=1)
        case.escalate()

        with pytest.raises(DivergedError, match=r"2 times within 1000 steps.*max_rollbacks=1"):
            case.escalate()

        assert [kind for _, kind, _ in case.chronicle.entered] == ["rollback", "stop"]
        assert case.snapshots == [63, 63]

    def test_are_those_of_the_last_steps(self):
        case = Case(Change(), max_rollbacks=1)
        case.escalate()
        case.standing.number += ROLLBACK_SPAN

        assert case.escalate()

    def test_are_counted_on_after_a_resume(self):
        case, resumed = (Case(Change(), max_rollbacks=1) for _ in range(2))
        case.escalate()

        resumed.returning.load_state_dict(case.returning.state_dict())

        with pytest.raises(DivergedError, match="max_rollbacks=1"):
            resumed.escalate()


class TestLooking:
    def test_finds_a_state_that_broke_unseen(self, make_job):
        job = make_job().run(1, 20)
        returning = job.guard._returning
        assert not returning.if_broken()
        job.model[0].weight.data[0, 0] = torch.inf

        returning.if_broken()

        assert all(p.isfinite().all() for p in job.model.parameters())
        assert [i.kind for i in job.guard.incidents] == ["rollback"]

    def test_accepts_what_there_is_no_way_back_from(self, make_job):
        job = make_job(guard=Guard(snapshots=0)).run(1, 20)
        returning = job.guard._returning
        assert not returning.if_broken()
        job.model[0].weight.data[0, 0] = torch.inf

        assert not returning.if_broken()
        assert job.guard.incidents == []

    def test_takes_two_optimizers_for_nothing(self):
        case = Case(Change())
        case.gear.live.optimizers.append(case.optimizer)

        went = [case.returning.if_diverged(loss, loss, 63) for loss in [9.0] * 40 + [1e3] * 40]

        assert not any(went)

    def test_goes_back_when_all_that_was_learned_is_lost(self):
        case = Case(Change())
        losses = [9.0] * 40 + [1.0] * 40 + [1e3] * 40

        went = [case.returning.if_diverged(loss, loss, 63) for loss in losses]

        assert went.index(True) >= 80
        assert case.chronicle.entered[0][1] == "rollback"
