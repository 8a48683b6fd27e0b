import copy
import math

import pytest
import torch
from torch import nn

from trimtab import Stepper
from trimtab.engine._rerun import Rerun
from trimtab.guard import Change, Guard, MicroStep, TapeStep
from trimtab.nn import Attention
from trimtab.optim import NormClip, ZClip, warmup_cosine
from trimtab.precision import LossScaler
from trimtab.signals import Recorder, Watch

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
}


class Recorded:
    """A run whose last steps are on the tape, with what has a state beside it."""

    def __init__(self, kind="adam", *, steps=12, from_step=4, fault=None, **options):
        with torch.random.fork_rng():
            torch.random.manual_seed(0)
            self.model = nn.Sequential(
                nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1)
            )
        self.optimizer = OPTIMIZERS[kind](self.model.parameters())
        self.stepper = Stepper(
            self.model,
            self.optimizer,
            schedule=warmup_cosine(self.optimizer, 4, 40),
            guard=Guard(policy="nonfinite", snapshots=2),
            **options,
        )
        self.guard = self.stepper.guard
        draw = torch.Generator().manual_seed(1)
        for step in range(1, steps + 1):
            for _ in range(self.stepper.accumulate):
                x = torch.randn(16, 6, generator=draw)
                x = x * math.nan if step == fault else x
                self.stepper.backward(lambda x=x: self.loss(x), weight=16)
                self.stepper.step()
            if step == from_step:
                self.guard._gear.take_snapshot(self.guard.number)
        self.steps = self.guard.tape.since(from_step)
        self.base = self.guard.ring.newest()
        self.left = self.state()

    def loss(self, x):
        return (self.model(x) - x.sum(1, keepdim=True)).square().mean()

    def state(self):
        schedule, scaler = self.stepper.schedule, self.stepper.scaler
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "clipper": self.stepper.clipper and self.stepper.clipper.state_dict(),
                "steps": self.stepper.steps,
            }
        )

    def replay(self, change=None, **options):
        self.guard.ring.restore(self.base)
        return self.guard.replayer.run(self.steps, change, **options)


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        torch.random.manual_seed(3)
        yield


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for mine, theirs in zip(a, b, strict=True):
            assert_same(mine, theirs)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a == b


class TestAsItWas:
    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize("accumulate", [1, 3])
    def test_is_the_run_bit_for_bit(self, kind, accumulate):
        run = Recorded(kind, accumulate=accumulate)

        replay = run.replay()

        assert replay.first_difference is None
        assert replay.losses == [s.loss for s in run.steps]
        assert replay.norms == [s.norm for s in run.steps]
        assert replay.skipped == [False] * 8
        assert_same(run.state(), run.left)

    @pytest.mark.parametrize("clip", [None, 0.05, ZClip()], ids=str)
    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_with_clipping_and_in_mixed_precision(self, clip, precision):
        options = {} if precision != "fp16" else {"scaler": LossScaler(2.0**10, interval=3)}
        run = Recorded(clip=copy.deepcopy(clip), precision=precision, **options)

        assert run.replay().first_difference is None
        assert_same(run.state(), run.left)

    @pytest.mark.parametrize("kind", ["sgd", "adam fused"])
    def test_leaves_out_what_the_run_left_out(self, kind):
        run = Recorded(kind, fault=8)

        replay = run.replay()

        assert replay.first_difference is None  # NaN is NaN again
        assert [s.number for s, skip in zip(run.steps, replay.skipped, strict=True) if skip] == [8]
        assert_same(run.state(), run.left)

    def test_says_from_which_step_on_it_differs(self):
        run = Recorded()
        run.steps[3].norm += 1e-6

        assert run.replay().first_difference == run.steps[3].number

    def test_keeps_the_limit_that_a_step_was_clipped_to_besides(self):
        run = Recorded(steps=4)
        run.guard.norm_limit = 1e-3
        x = torch.randn(16, 6)
        for _ in range(2):
            run.stepper.backward(lambda: run.loss(x), weight=16)
            run.stepper.step()
        run.steps, left = run.guard.tape.since(4), run.state()

        run.replay()

        assert [s.norm_limit for s in run.steps] == [1e-3, 1e-3]
        assert_same(run.state(), left)


class TestChanges:
    def test_without_a_step_is_the_run_that_never_saw_it(self):
        run = Recorded()

        replay = run.replay(Change(without=frozenset({8})))

        assert len(replay.losses) == len(run.steps) - 1
        assert run.stepper.steps == run.left["steps"] - 1
        assert run.stepper.schedule.last_epoch == run.left["schedule"]["last_epoch"] - 1

    def test_a_smaller_rate_moves_less(self):
        run = Recorded("sgd", clip=None)
        run.steps = run.steps[:1]
        weight = run.model[0].weight
        moved = []
        for change in (Change(), Change(lr=0.5), Change(lr_cap=1e-5)):
            run.guard.ring.restore(run.base)
            before = weight.detach().clone()
            run.guard.replayer.run(run.steps, change)
            moved.append(float((weight - before).norm().detach()))

        assert moved[1] == pytest.approx(0.5 * moved[0], rel=1e-4)
        rate = run.steps[0].settings[0]["lr"]
        assert moved[2] == pytest.approx(moved[0] * 1e-5 / rate, rel=1e-2)

    def test_the_rates_of_the_schedule_are_there_again_afterwards(self):
        run = Recorded()

        run.replay(Change(lr=0.5))

        assert run.optimizer.param_groups[0]["lr"] == run.left["optimizer"]["param_groups"][0]["lr"]

    def test_clipping_replaces_the_runs_own(self):
        run = Recorded("sgd", clip=1e6)
        run.steps = run.steps[:1]

        limit = 1e-4
        run.guard.ring.restore(run.base)
        params = list(run.model.parameters())
        momentum = [run.optimizer.state[p]["momentum_buffer"].clone() for p in params]
        run.guard.replayer.run(run.steps, Change(clip=limit))
        came = [
            run.optimizer.state[p]["momentum_buffer"] - 0.9 * old
            for p, old in zip(params, momentum, strict=True)
        ]

        norm = torch.stack([c.norm() for c in came]).norm()
        assert float(norm) == pytest.approx(limit, rel=0.05)

    def test_another_precision(self):
        run = Recorded(precision="bf16")

        replay = run.replay(Change(precision="fp32"))

        assert replay.first_difference == run.steps[0].number
        assert replay.losses == pytest.approx([s.loss for s in run.steps], rel=0.1)

    def test_capped_attention_only_for_the_time(self):
        model = Attention(16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen = []

        def loss():
            seen.append(model.softcap)
            return model(torch.ones(2, 4, 16)).square().mean()

        step = tape_step(loss)
        Rerun(model, [optimizer]).run([step], Change(attention_cap=50.0))

        assert seen == [50.0]
        assert model.softcap is None

    def test_a_decision_leaves_out_whole_steps(self):
        run = Recorded()
        worst = max(s.norm for s in run.steps)

        replay = run.replay(decide=lambda _loss, norm, _which: norm >= worst)

        assert replay.skipped[[s.norm for s in run.steps].index(worst)]
        assert run.stepper.steps == run.left["steps"] - sum(replay.skipped)

    def test_the_schedule_goes_on_when_steps_are_made_that_were_left_out(self):
        """Their rates were recorded while it stood still."""
        run = Recorded("sgd", steps=12)
        for step in run.steps[3:]:
            step.skipped = True  # as if the state had been broken
            for settings in step.settings:
                settings["lr"] = run.steps[3].settings[0]["lr"]

        run.replay(decide=lambda *_: False)

        assert_same(run.state(), run.left)


def tape_step(loss, **changes):
    micro = MicroStep(loss, 1.0, 1.0, {"cpu": torch.get_rng_state()}, loss=None)
    given = {"number": 1, "micro_steps": [micro], "settings": [{}], "divisor": 1.0, "loss": 0.0}
    flags = {"norm": 0.0, "skipped": False, "flagged": False}
    return TapeStep(**given | flags | changes)


class TestMeasuring:
    def test_changes_nothing(self):
        run = Recorded(precision="fp16", clip=ZClip())

        losses, norms = run.guard.replayer.measure(run.steps)

        assert len(losses) == len(norms) == len(run.steps)
        assert losses != [s.loss for s in run.steps]  # of the state of now
        assert_same(run.state(), run.left)

    def test_changes_nothing_if_the_loss_raises(self):
        run = Recorded()

        def broken():
            run.loss(torch.randn(16, 6))  # has moved the statistics by now
            raise FileNotFoundError("batch.pt")

        run.steps[-1].micro_steps[0].compute = broken
        with pytest.raises(FileNotFoundError):
            run.guard.replayer.measure(run.steps)

        assert_same(run.state(), run.left)
        assert not run.guard.replayer.active


class TestManners:
    def test_gradients_of_the_open_window_are_kept(self):
        run = Recorded()
        grads = [torch.randn_like(p) for p in run.model.parameters()]
        for p, grad in zip(run.model.parameters(), grads, strict=True):
            p.grad = grad

        run.replay()

        assert all(p.grad is g for p, g in zip(run.model.parameters(), grads, strict=True))

    def test_modes_of_modules_are_kept(self):
        """A frozen BatchNorm is in evaluation mode although the model trains."""
        run = Recorded()
        run.model[1].eval()
        statistics = run.model[1].running_mean.clone()

        run.guard.replayer.measure(run.steps)
        run.guard.replayer.run(run.steps[:1])

        assert [m.training for m in run.model] == [True, False, True, True, True]
        assert torch.equal(run.model[1].running_mean, statistics)

    def test_a_model_in_evaluation_is_trained_for_the_time(self):
        run = Recorded()
        run.model.eval()

        assert run.replay().first_difference is None
        assert not any(m.training for m in run.model.modules())

    def test_hooks_of_the_optimizer_do_not_see_the_steps(self):
        """Nor does it matter that one of them is under way."""
        run = Recorded()
        calls = []
        run.optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
        run.optimizer.register_step_post_hook(
            lambda *_: (calls.append("replayed"), run.replay())[0]
        )
        run.optimizer.register_step_post_hook(lambda *_: calls.append("after"))

        run.loss(torch.randn(16, 6)).backward()
        run.optimizer.step()

        assert calls == ["before", "replayed", "after"]

    def test_a_recorder_does_not_see_them_either(self):
        run = Recorded()
        recorder = Recorder(run.model, list(run.model.parameters()), watch=Watch(parameters=1))
        replayer = Rerun(run.model, [run.optimizer], recorder=recorder)

        replayer.run(run.steps)

        assert recorder.step == 0
        recorder.close()

    def test_grad_mode_is_on_whatever_it_was(self):
        run = Recorded()
        with torch.no_grad():
            assert run.replay().first_difference is None

    def test_tells_to_what_norm_the_run_clips(self):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        assert Rerun(model, [optimizer], clippers=[NormClip(0.5)]).max_norm == 0.5
        assert Rerun(model, [optimizer]).max_norm == math.inf


class TestDroppedMicroBatches:
    def run(self):
        """One micro-batch was bad for the state that it met, and left out."""
        run = Recorded("sgd", accumulate=2)
        return run, run.steps[2].micro_steps[1]

    def test_stay_out_if_they_are_as_bad_again(self):
        run, micro = self.run()
        micro.dropped = True

        replay = run.replay(decide=lambda *_: False)

        assert replay.losses[2] == float(run.steps[2].micro_steps[0].loss)

    def test_stay_out_if_they_are_bad_otherwise(self):
        run, micro = self.run()
        seen = float(micro.loss)
        micro.dropped, micro.loss = True, torch.tensor(1e9)

        replay = run.replay(decide=lambda loss, _norm, _which: loss == seen)

        assert replay.losses[2] == float(run.steps[2].micro_steps[0].loss)

    def test_come_in_if_they_are_sound_now(self):
        run, micro = self.run()
        micro.dropped, micro.loss = True, torch.tensor(1e9)
        run.steps[2].divisor = 1.0  # of one micro-batch

        replay = run.replay()

        assert replay.losses[2] == run.steps[2].loss
        assert replay.norms[2] == run.steps[2].norm
        assert_same(run.state(), run.left)

    def test_all_of_a_step_come_in(self):
        run, _ = self.run()
        for micro in run.steps[2].micro_steps:
            micro.dropped, micro.loss = True, torch.tensor(math.nan)
        run.steps[2].divisor = 0.0  # nothing was in it

        replay = run.replay()

        assert replay.norms[2] == run.steps[2].norm
        assert_same(run.state(), run.left)
