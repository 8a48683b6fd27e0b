"""The guard in loops that stay as they are: `attach`."""

import copy
import types

import pytest
import torch
from tests.guard.conftest import Job, change_gradient, change_weight, once, reset, spoilt
from torch import nn

import trimtab
from trimtab import DivergedError
from trimtab.guard import Guard


class Loop(Job):
    """The run of the other tests, in a loop that is written by hand."""

    def __init__(self, *, guard="spike", closures=True, at_once=True, returns_loss=False, **given):
        super().__init__(guard=None, **{"norm": True, "dropout": 0.2} | given)
        self.closures, self.returns_loss = closures, returns_loss
        if returns_loss:
            self.model = ReturnsLoss(self.model)
        self.trim = trimtab.attach(
            self.model, self.optimizer, guard=guard, out=None, judge=False, watch=False
        )
        self.trim.recorder.at_once = at_once
        self.trim._hooks[0]._updater.at_once = at_once
        if self.trim._rerun is not None:
            self.trim._rerun.at_once = at_once

    @property
    def guard(self):
        return self.trim.guard

    @property
    def incidents(self):
        return self.trim.incidents

    def loss(self, x, y):
        if self.returns_loss:
            return self.model(x, y)["loss"]
        return nn.functional.mse_loss(self.model(x), y)

    def step(self, x, y):
        if self.closures:
            loss = self.trim.loss(lambda: self.loss(x, y))
        elif self.returns_loss:
            loss = self.loss(x, y)
        else:
            loss = self.trim.loss(self.loss(x, y))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self):
        self.trim.sync()
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(state | {"random": torch.get_rng_state()})


class ReturnsLoss(nn.Module):
    """As models of Transformers do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, y):
        return {"loss": nn.functional.mse_loss(self.inner(x), y)}


@pytest.fixture
def compare(same):
    """Run a guarded loop, then a bare one from the same random state, and compare all they left."""

    def check(settings, last=100, *, without=(), bad=None, before=None):
        bad = {} if bad is None else {"bad": bad}
        reset()
        loop = Loop(**settings)
        loop.run(1, last, **bad, before=(lambda step: None) if before is None else before(loop))
        left = loop.state()
        reset()
        clean = Loop(**settings | {"guard": None}).run(1, last, **bad, without=without)
        same(left, clean.state())
        return loop

    return check


def kinds(loop):
    return [(i.step, i.kind, i.finding.code) for i in loop.incidents]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("optimizer", ["adam", "adam fused", "momentum"])
class TestSkips:
    def test_healthy_runs_are_left_as_they_are(self, compare, optimizer, at_once):
        loop = compare({"optimizer": optimizer, "at_once": at_once})

        assert kinds(loop) == []

    @pytest.mark.parametrize("kind", ["nan", "times 1000", "garbage labels"])
    def test_a_bad_batch_is_as_if_it_had_never_been(self, compare, optimizer, at_once, kind):
        settings = {"optimizer": optimizer, "at_once": at_once}

        loop = compare(settings, bad=spoilt(kind, 60), without=(60,))

        assert kinds(loop) == [(60, "skip", "TT512")]
        assert loop.trim.skipped_steps == 1

    def test_a_burst_is_no_reason_to_go_back(self, compare, optimizer, at_once):
        settings = {"optimizer": optimizer, "at_once": at_once}
        steps = range(60, 65)

        loop = compare(settings, bad=spoilt("garbage labels", *steps), without=tuple(steps))

        assert kinds(loop) == [(60, "skip", "TT512")]


class TestReturns:
    @pytest.mark.parametrize("optimizer", ["adam", "adam fused", "momentum"])
    @pytest.mark.parametrize("returns_loss", [False, True])
    def test_a_corrupted_weight_is_undone_bit_for_bit(self, compare, optimizer, returns_loss):
        settings = {"optimizer": optimizer, "returns_loss": returns_loss}

        loop = compare(settings, before=lambda loop: once(60, lambda: corrupt(loop)))

        assert kinds(loop) == [(60, "rollback", "TT603")]
        assert loop.incidents[0].lost_steps == 0

    def test_a_step_with_a_corrupted_gradient_is_made_again(self, compare):
        loop = compare({}, before=lambda loop: once(60, lambda: change_gradient(loop)))

        assert kinds(loop) == [(60, "skip", "TT603")]
        assert loop.trim.skipped_steps == 0

    @pytest.mark.parametrize("optimizer", ["adam", "adam fused"])
    def test_on_an_accelerator_the_step_in_between_is_made_again(self, optimizer):
        """Its gradient was of the state that was put back; that is no incident of its own."""
        loop = Loop(at_once=False, optimizer=optimizer)

        loop.run(1, 100, before=once(60, lambda: change_weight(loop)))

        assert kinds(loop) == [(60, "rollback", "TT603")]
        assert all(r.values["step.skipped"] == 0 for r in list(loop.trim.history)[64:])

    @pytest.mark.parametrize("optimizer", ["adam", "adam fused"])
    def test_on_an_accelerator_the_rate_is_held_for_it_too(self, optimizer):
        loop = Loop(at_once=False, optimizer=optimizer)

        def jump():
            loop.optimizer.param_groups[0]["lr"] *= 300

        loop.run(1, 100, before=once(60, jump))

        assert [code for *_, code in kinds(loop)] == ["TT450"]
        assert loop.guard.rates.cap == 0.01

    def test_without_closures_it_goes_back_and_warms_up(self):
        loop = Loop(closures=False, guard=Guard(overhead=0.9))

        loop.run(1, 120, before=once(60, lambda: change_weight(loop)))

        assert kinds(loop) == [(60, "rollback", "TT310")]
        assert loop.incidents[0].snapshot_step < 60
        losses = [record.values["loss"] for record in loop.trim.history]
        assert losses[-1] < 2 * losses[55]

    def test_and_ends_after_some_tries(self):
        loop = Loop(closures=False, guard=Guard(max_rollbacks=1))

        def break_it(step):
            if step in {60, 100}:
                change_weight(loop)

        with pytest.raises(DivergedError, match="max_rollbacks=1"):
            loop.run(1, 200, before=break_it)

        assert [i.kind for i in loop.incidents] == ["rollback", "stop"]

    def test_losses_of_replays_are_none_of_the_runs(self):
        """The model returns its loss, which a hook notes; a replay calls the model as well."""
        loop, clean = Loop(returns_loss=True), Loop(returns_loss=True, guard=None)
        reset()
        loop.run(1, 80, before=once(60, lambda: corrupt(loop)))
        reset()
        clean.run(1, 80)

        ours, theirs = ([r.values["loss"] for r in each.trim.history] for each in (loop, clean))
        assert ours[62:] == theirs[62:]

    def test_other_hooks_of_the_optimizer_go_on(self):
        loop, calls = Loop(), []
        for name in ("a", "b"):
            loop.optimizer.register_step_post_hook(lambda *_, name=name: calls.append(name))

        loop.run(1, 80, before=once(60, lambda: change_weight(loop)))

        assert len(loop.incidents) == 1
        assert calls == ["a", "b"] * 80


def corrupt(loop):
    model = loop.model.inner if loop.returns_loss else loop.model
    change_weight(types.SimpleNamespace(model=model))


class TestAccumulation:
    def test_of_a_loop_is_replayed_too(self, same):
        """The loop divides by itself; what gradient each loss was given is on the tape."""

        def trained(guard, fault):
            reset()
            loop = Loop(guard=guard)
            for step in range(1, 81):
                if step == 60 and fault:
                    change_weight(loop)
                x, y = loop.batch(step)
                for a, b in zip(x.chunk(4), y.chunk(4), strict=True):
                    (loop.trim.loss(lambda a=a, b=b: loop.loss(a, b)) / 4).backward()
                loop.optimizer.step()
                loop.optimizer.zero_grad()
            return loop

        loop = trained("spike", fault=True)
        left = loop.state()

        assert kinds(loop) == [(60, "rollback", "TT603")]
        same(left, trained(None, fault=False).state())


class OwnClip(Loop):
    """Clips by itself, as loops did before they were attached to."""

    def step(self, x, y):
        self.trim.loss(lambda: self.loss(x, y)).backward()
        self.change()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def change(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)


class OwnScale(OwnClip):
    """Does what nobody knows of."""

    def change(self):
        for p in self.model.parameters():
            p.grad.mul_(0.37)


class TestLoopsThatChangeGradients:
    @pytest.mark.parametrize("optimizer", ["adam", "adam fused", "momentum"])
    def test_clipping_by_the_loop_is_repeated_bit_for_bit(self, same, optimizer):
        reset()
        loop = OwnClip(optimizer=optimizer, guard=Guard(overhead=0.9))
        loop.run(1, 80)
        left = loop.state()
        base = loop.guard.ring.snapshots[-1]
        steps = loop.guard.tape.since(base.step)
        loop.guard.ring.restore(base)

        replay = loop.guard.replayer.run(steps)

        assert steps[-1].own_clip.max_norm == 0.5
        assert len(steps) > 0
        assert replay.first_difference is None
        same(loop.state(), left)

    def test_a_corrupted_weight_is_undone_in_such_a_loop_too(self, same):
        reset()
        loop = OwnClip(guard=Guard(overhead=0.9))
        loop.run(1, 80, before=once(60, lambda: change_weight(loop)))
        left = loop.state()
        reset()

        assert kinds(loop) == [(60, "rollback", "TT603")]
        same(left, OwnClip(guard=None).run(1, 80).state())

    def test_what_cannot_be_repeated_is_no_proof_of_a_corrupted_state(self):
        loop = OwnScale(guard=Guard(overhead=0.9))

        loop.run(1, 80, before=once(60, lambda: change_weight(loop)))

        (incident,) = loop.incidents
        assert (incident.kind, incident.finding.code) == ("rollback", "TT310")
        assert incident.finding.what.endswith(
            "replays show nothing: the loop changes gradients between backward and step in a way "
            "that is not known; leave clipping to clip= of attach"
        )

    def test_nor_is_a_step_made_again_for_it(self):
        loop = OwnScale(guard=Guard(overhead=0.9))

        loop.run(1, 80, before=once(60, lambda: change_gradient(loop)))

        assert kinds(loop) == [(60, "skip", "TT512")]


class TestObserving:
    @pytest.mark.parametrize("kind", ["nan", "times 1000"])
    def test_changes_nothing(self, compare, kind):
        """Not even of a step that is not finite: parameters go to NaN as without a guard."""
        loop = compare({"guard": "observe"}, last=70, bad=spoilt(kind, 60))

        assert kinds(loop)[0] == (60, "observed", "TT512")
        assert loop.trim.skipped_steps == 0


class TestResume:
    @pytest.mark.parametrize("stop", [40, 61, 63])
    def test_goes_on_bit_for_bit(self, same, stop):
        bad = spoilt("garbage labels", 60, 61, 62, 63, 64, 80)
        reset()
        whole = Loop().run(1, 100, bad=bad)
        left = whole.state()
        reset()
        first = Loop().run(1, stop, bad=bad)
        saved = first.state(), copy.deepcopy(first.trim.state_dict())

        second = Loop()
        second.model.load_state_dict(saved[0]["model"])
        second.optimizer.load_state_dict(saved[0]["optimizer"])
        second.trim.load_state_dict(saved[1])
        second.run(stop + 1, 100, bad=bad)

        same(second.state(), left)
        assert second.trim.skipped_steps == whole.trim.skipped_steps == 6


def test_two_optimizers_are_guarded_without_functions_of_their_losses():
    """For replays, see test_several_optimizers.py."""
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.ModuleList([first, second])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (first, second)]
    trim = trimtab.attach(model, optimizers, out=None, judge=False, watch=False)
    draw = torch.Generator().manual_seed(0)
    for step in range(1, 81):
        x = torch.randn(32, 4, generator=draw)
        x = x * float("nan") if step == 60 else x
        for module, optimizer in zip((first, second), optimizers, strict=True):
            trim.loss((module(x) - x).square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert trim.skipped_steps == 2
    assert {i.kind for i in trim.incidents} == {"skip"}
    assert all(torch.isfinite(p).all() for p in model.parameters())
