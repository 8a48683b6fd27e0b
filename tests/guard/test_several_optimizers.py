"""Loops in which several optimizers step: a body and a head, a generator and its critic."""

import copy
from statistics import fmean

import pytest
import torch
from tests.guard.conftest import OPTIMIZERS, once, reset
from torch import nn

import trimtab
from trimtab import StateError
from trimtab.engine import replay_bundle
from trimtab.guard import Change, Guard, list_bundles, read_bundle


class Loop:
    """A loop of two optimizers, whose data depend on the number of the pass alone.

    Args:
        optimizers: Kinds of both.
        clears: When gradients are cleared: right `"before"` the backward pass, `"after"` the step,
            all at the `"top"` of a pass, or to `"zeros"` at the top.
        guard: As for `attach`.
        clip: As for `attach`.
        at_once: Whether a step's outcome is read in it; on an accelerator, it is in the next.
    """

    def __init__(
        self,
        *,
        optimizers=("adam", "adam"),
        clears="before",
        guard="",
        clip=1.0,
        at_once=True,
    ):
        with torch.random.fork_rng():
            torch.random.manual_seed(0)
            self.model = self.build()
        first, second = self.parts()
        self.optimizers = [
            OPTIMIZERS[kind](part.parameters(), rate)
            for kind, part, rate in zip(optimizers, (first, second), (0.01, 0.002), strict=True)
        ]
        self.clears = clears
        self.trim = trimtab.attach(
            self.model,
            self.optimizers,
            guard=Guard(overhead=0.9) if guard == "" else guard,
            clip=clip,
            out=None,
            judge=False,
            watch=False,
        )
        self.trim.recorder.at_once = at_once
        for hooks in self.trim._hooks:
            hooks._updater.at_once = at_once
        if self.trim._rerun is not None:
            self.trim._rerun.at_once = at_once

    @property
    def guard(self):
        return self.trim.guard

    def clear(self, moment, *which):
        """Clear gradients of these optimizers if this is the moment to."""
        if self.clears == moment or (self.clears == "zeros" and moment == "top"):
            for i in which:
                self.optimizers[i].zero_grad(set_to_none=self.clears != "zeros")

    def batch(self, number):
        draw = torch.Generator().manual_seed(number)
        x = torch.randn(64, 8, generator=draw)
        return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(64, 1, generator=draw)

    def run(self, first, last, *, bad=lambda _number, x, y: (x, y), before=lambda _number: None):
        for number in range(first, last + 1):
            before(number)
            self.clear("top", 0, 1)
            self.make_pass(*bad(number, *self.batch(number)))
        self.trim.sync()
        return self

    def state(self):
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"model": self.model.state_dict(), "optimizers": optimizers}
        return copy.deepcopy(state | {"random": torch.get_rng_state()})

    def codes(self):
        return [(i.kind, i.finding.code) for i in self.trim.incidents]


class Shared(Loop):
    """One backward pass, after which the body's and the head's optimizer step."""

    def build(self):
        body = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.2))
        return nn.Sequential(body, nn.Linear(32, 1))

    def parts(self):
        return self.model

    push = 0.0

    def loss(self, x, y, push):
        predicted = self.model(x)
        pushed = push * (predicted - predicted.detach()).mean()  # of value 0
        return nn.functional.mse_loss(predicted, y) + pushed

    def make_pass(self, x, y):
        push = self.push
        loss = self.trim.loss(lambda: self.loss(x, y, push))
        self.clear("before", 0, 1)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.clear("after", 0, 1)


class Adversaries(Loop):
    """A critic that learns to tell, and a generator that learns from it, by turns."""

    def build(self):
        critic = nn.Sequential(nn.Linear(9, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
        generator = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
        return nn.ModuleDict({"critic": critic, "generator": generator})

    def parts(self):
        return self.model["critic"], self.model["generator"]

    def fake(self, x):
        return self.model["generator"](x + 0.1 * torch.randn_like(x))

    def tell(self, x, y):
        return self.model["critic"](torch.cat([x, y], dim=1))

    def critic_loss(self, x, y):
        with torch.no_grad():
            fake = self.fake(x)
        return (self.tell(x, y) - 1).square().mean() + self.tell(x, fake).square().mean()

    def generator_loss(self, x):
        return (self.tell(x, self.fake(x)) - 1).square().mean()

    def make_pass(self, x, y):
        for i, loss in enumerate((lambda: self.critic_loss(x, y), lambda: self.generator_loss(x))):
            self.clear("before", i)
            self.trim.loss(loss).backward()
            self.optimizers[i].step()
            self.clear("after", 0, 1)  # the critic has gradients of the generator's loss as well


FORMS = [Shared, Adversaries]


@pytest.mark.parametrize("form", FORMS)
class TestReplays:
    @pytest.mark.parametrize("optimizers", [("adam", "momentum"), ("adam fused", "sgd")])
    @pytest.mark.parametrize("clears", ["before", "after", "top", "zeros"])
    @pytest.mark.parametrize("clip", [None, 0.05])
    def test_are_the_run_bit_for_bit(self, same, form, optimizers, clears, clip):
        loop = form(optimizers=optimizers, clears=clears, clip=clip, guard=Guard(overhead=0.9))
        loop.run(1, 60)
        left = loop.state()
        base = loop.guard.ring.snapshots[0]
        steps = loop.guard.tape.since(base.step)

        loop.guard.ring.restore(base)
        replay = loop.guard.replayer.run(steps)

        assert len(steps) == 120 - base.step > 16
        assert form is Adversaries or base.step % 2 == 0  # never amid a shared backward pass
        assert replay.first_difference is None
        same(loop.state(), left)

    def test_healthy_runs_are_left_as_they_are(self, same, form):
        reset()
        loop = form().run(1, 100)
        left = loop.state()
        reset()

        assert loop.codes() == []
        same(left, form(guard=None).run(1, 100).state())

    def test_a_corrupted_weight_is_undone_bit_for_bit(self, same, form):
        reset()
        loop = form()
        loop.run(1, 80, before=once(60, lambda: corrupt(loop)))
        left = loop.state()
        reset()

        assert loop.codes() == [("rollback", "TT603")]
        assert loop.trim.incidents[0].experiments[-1].reproduced is False
        same(left["model"], form(guard=None).run(1, 80).state()["model"])

    def test_on_an_accelerator_the_run_goes_on_as_well(self, form):
        """The outcome of a step is read in the next one, which is another optimizer's."""
        loop, clean = form(at_once=False), form(at_once=False, guard=None)

        loop.run(1, 100, before=once(60, lambda: corrupt(loop)))
        clean.run(1, 100)

        assert loop.codes() == [("rollback", "TT603")]
        assert loop.guard.healthy
        # How many steps are lost depends on when the snapshots were taken.
        last = [[r.values["loss"] for r in each.trim.history][-2:-42:-2] for each in (loop, clean)]
        assert fmean(last[0]) == pytest.approx(fmean(last[1]), rel=0.3)


def corrupt(loop):
    """Flip a bit in the last layer of what the second optimizer trains."""
    *_, last = (m for m in loop.parts()[1].modules() if isinstance(m, nn.Linear))
    last.weight.data[0, 0] *= 2.0**14


def garbage(*numbers):
    """Return what spoils the labels of these passes."""
    return lambda number, x, y: (x, 50 * y.flip(0) if number in numbers else y)


class TestCauses:
    @pytest.mark.parametrize("form", FORMS)
    def test_a_bad_batch_is_left_out_of_all_steps_that_use_it(self, same, form):
        reset()
        loop = form().run(1, 80, bad=garbage(60))

        assert loop.codes() == [("skip", "TT512")]
        assert loop.trim.skipped_steps == loop.trim.incidents[0].lost_steps
        assert loop.trim.skipped_steps == (2 if form is Shared else 1)

    def test_bad_batches_in_a_row_are_named_with_the_replays_that_show_it(self):
        loop = Shared().run(1, 80, bad=garbage(60, 61, 62, 63))

        ((kind, code),) = loop.codes()
        (incident,) = loop.trim.incidents
        assert (kind, code) == ("skip", "TT512")
        assert incident.finding.what.endswith("do not happen without the data of steps 119 to 123")
        (row,) = incident.experiments
        assert row.healed
        assert row.probe < 2 * incident.limits["loss_level"]
        assert loop.trim.skipped_steps == 8

    def test_one_that_was_accepted_is_found_by_leaving_it_out(self):
        """Its loss is as always, but its gradient pushes the weights far away."""

        def by_loss(loss, norm):
            return torch.zeros_like(norm) if loss is None else loss > 50

        guard = Guard(policy=by_loss, overhead=0.9)
        loop = Shared(optimizers=("sgd", "sgd"), clip=None, guard=guard)

        def push(number):
            loop.push = 1e5 if number == 57 else 0.0

        loop.run(1, 80, before=push)

        ((kind, code),) = loop.codes()
        (incident,) = loop.trim.incidents
        assert (kind, code) == ("rollback", "TT512")
        assert incident.finding.what.endswith("do not happen without the data of steps 113 to 114")
        assert incident.suspects["steps"] == [113, 114]
        assert incident.experiments[0].reproduced

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("which", [0, 1])
    def test_a_jump_of_one_learning_rate_is_named_and_held(self, form, which):
        loop = form()
        rate = loop.optimizers[which].param_groups[0]["lr"]

        def jump():
            loop.optimizers[which].param_groups[0]["lr"] *= 3000

        loop.run(1, 90, before=once(60, jump))

        assert loop.codes() == [("rollback", "TT450")]
        (incident,) = loop.trim.incidents
        assert incident.finding.what.endswith(
            f"do not happen with learning rate of optimizers[{which}] of at most {rate}"
        )
        assert incident.experiments[-1].change == Change(lr_cap=rate, optimizer=which)
        assert incident.action.endswith(
            f"From now on the learning rate of optimizers[{which}] is divided by its jump, 3e+03."
        )
        assert loop.optimizers[which].param_groups[0]["lr"] == 3000 * rate  # the user's own

    def test_a_jump_of_one_rate_leaves_the_others_as_they_are(self, same):
        """Although they are above what the one was before it jumped."""
        reset()
        loop = Shared()

        def jump():
            loop.optimizers[1].param_groups[0]["lr"] *= 3000

        loop.run(1, 90, before=once(60, jump))
        left = loop.state()
        reset()

        same(left["model"], Shared(guard=None).run(1, 90).state()["model"])

    def test_a_corrupted_gradient_has_the_step_made_again(self, same):
        reset()
        loop = Shared()

        def change_gradient():
            weight = loop.model[0][0].weight
            hook = weight.register_hook(lambda grad: (hook.remove(), grad * 2.0**20)[1])

        loop.run(1, 80, before=once(60, change_gradient))
        left = loop.state()
        reset()

        assert loop.codes() == [("skip", "TT603")]
        assert loop.trim.skipped_steps == 0
        same(left, Shared(guard=None).run(1, 80).state())


class TestWithoutReplays:
    def test_losses_given_as_tensors_are_the_reason(self):
        class Tensors(Shared):
            def make_pass(self, x, y):
                self.trim.loss(nn.functional.mse_loss(self.model(x), y)).backward()
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()

        loop = Tensors()
        loop.run(1, 90, before=once(60, lambda: corrupt(loop)))

        (incident, *_) = loop.trim.incidents
        assert (incident.kind, incident.finding.code) == ("rollback", "TT310")
        assert incident.finding.what.endswith(
            "nothing could be replayed: its loss was not given as a function, as in "
            "loss(lambda: ...)"
        )

    def test_gradients_that_are_never_cleared_are_the_reason(self):
        loop = Shared(clears="never", optimizers=("sgd", "sgd"))
        loop.run(1, 90, before=once(60, lambda: corrupt(loop)))

        (incident, *_) = loop.trim.incidents
        assert incident.finding.code == "TT310"
        assert incident.finding.what.endswith(
            "nothing could be replayed: an optimizer used gradients from before the snapshot; let "
            "every zero_grad() stand before the backward() whose gradients its step() uses"
        )

    def test_gradients_of_a_state_that_is_gone_are_not_used(self):
        loop = Shared(guard=Guard(overhead=0.9, explain_s=0.0))
        loop.run(1, 90, before=once(60, lambda: corrupt(loop)))

        (incident,) = loop.trim.incidents
        assert incident.kind == "rollback"
        after = next(r for r in loop.trim.history if r.step == incident.detected + 1)
        assert after.values["step.skipped"] == 1.0
        assert after.values["step.flagged"] == 0.0
        assert loop.guard.healthy


def test_an_incident_cannot_be_replayed_elsewhere(tmp_path):
    """The batches of a critic and a generator would each want a function of their own."""
    loop = Shared(guard=Guard(overhead=0.9, out=tmp_path)).run(1, 70, bad=garbage(60))
    path = list_bundles(tmp_path)[0]

    assert [step["which"] for step in read_bundle(path).batches][:2] == [0, 1]
    with pytest.raises(StateError, match="2 optimizers, which cannot be replayed in a fresh"):
        replay_bundle(path, lambda _seed: None)
    assert loop.codes() == [("skip", "TT512")]
