import math

import pytest
import torch
from torch import nn

from trimtab.engine._loop_tape import LoopTape
from trimtab.signals import StepRecord


class FakeGuard:
    keeps_tape, number = True, 4


X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return nn.Linear(3, 1)


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def record(step, **values):
    defaults = {"loss": 2.0, "gradient.norm": 3.0, "step.skipped": 0.0, "step.flagged": 0.0}
    return StepRecord(step=step, values=defaults | values)


def test_a_step_is_what_repeats_it(model, optimizer):
    tape = LoopTape(FakeGuard())
    x, drawn = X, torch.get_rng_state()
    losses = [tape.compute(lambda: model(x).square().mean() * 1) for _ in range(2)]
    for loss in losses:
        (loss / 2).backward()

    tape.close(optimizer, 8.0)
    optimizer.param_groups[0]["lr"] = 7.0
    x = torch.zeros(8, 3)
    step = tape.take(record(5, **{"step.skipped": 1.0, "step.flagged": 1.0})).tape

    assert (step.number, step.divisor, step.loss, step.norm) == (5, 8.0, 2.0, 3.0)
    assert (step.skipped, step.flagged) == (True, True)
    assert (step.settings[0]["lr"], step.settings[0]["momentum"]) == (0.1, 0.9)
    first = step.micro_steps[0]
    assert len(step.micro_steps) == 2
    assert float(first.factor) == 0.5  # as the loop divided it
    assert torch.equal(first.compute(), losses[0])  # of the batch of then
    assert torch.equal(first.batch["x"], X)
    assert torch.equal(first.random["cpu"], drawn)
    assert first.loss.grad_fn is None
    assert first.precision == "fp32"


def test_the_precision_is_the_loops(model, optimizer):
    tape = LoopTape(FakeGuard())
    with torch.autocast("cpu", torch.bfloat16):
        tape.compute(lambda: model(X).float().mean()).backward()
    tape.close(optimizer, 1.0)

    assert tape.take(record(5)).tape.micro_steps[0].precision == "bf16"


def test_steps_whose_record_comes_later_are_kept_in_order(model, optimizer):
    guard = FakeGuard()
    tape = LoopTape(guard)
    for number in (4, 5, 6):
        guard.number = number
        tape.compute(lambda: model(X).mean()).backward()
        tape.close(optimizer, 1.0)

    assert tape.take(record(4)) is None  # it was never closed
    assert tape.take(record(5)).number == 5
    assert tape.take(record(7)).number == 7  # the sixth was not recorded
    assert tape.take(record(7)) is None


@pytest.mark.parametrize("guard", [None, type("Off", (), {"keeps_tape": False, "number": 0})()])
def test_nothing_is_kept_without_a_guard_that_replays(model, optimizer, guard):
    tape = LoopTape(guard)

    loss = tape.compute(lambda: model(X).mean())
    tape.close(optimizer, 1.0)

    assert loss.requires_grad
    closed = tape.take(record(1))
    assert closed is None or closed.tape is None


def test_evaluation_is_none_of_it(model, optimizer):
    tape = LoopTape(FakeGuard())
    with torch.no_grad():
        tape.compute(lambda: model(X).mean())
    tape.close(optimizer, 1.0)

    assert tape.take(record(5)).tape is None


def test_a_step_whose_division_nobody_knows_is_not_kept(model, optimizer):
    """The loop unscaled by itself."""
    tape = LoopTape(FakeGuard())
    tape.compute(lambda: model(X).mean()).backward()
    tape.close(optimizer, math.nan)

    assert tape.take(record(5)).tape is None


def test_a_loss_without_a_gradient_is_returned_as_it_is(model, optimizer):
    tape = LoopTape(FakeGuard())

    assert float(tape.compute(lambda: X.sum().detach())) == float(X.sum())
    tape.close(optimizer, 1.0)

    assert tape.take(record(5)).tape is None


def test_computes_in_float32_once_it_is_widened():
    tape = LoopTape(None)
    x, w = torch.full((1, 2), 1e3), torch.full((2, 1), 1e3, requires_grad=True)

    def loss():
        return torch.sum(x @ w)

    with torch.autocast("cpu", torch.float16):
        assert not tape.compute(loss).isfinite()
        tape.widen("cpu")
        assert tape.compute(loss).item() == 2e6


class TestSeveralOptimizers:
    def closed(self, *, clears):
        """Return three steps: two share a backward pass, the third has one of its own."""
        layers = nn.Linear(3, 4), nn.Linear(4, 1)
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1 + i) for i, m in enumerate(layers)]
        guard = FakeGuard()
        tape = LoopTape(guard, optimizers)
        found = []
        for number, which in enumerate((0, 1, 0), 5):
            if which == 0:
                for optimizer in optimizers if clears else ():
                    optimizer.zero_grad()
                tape.compute(lambda: layers[1](layers[0](X)).mean()).backward()
            guard.number = number - 1
            tape.close(optimizers[which], 1.0, which)
            found.append(tape.take(record(number, loss=2.0 if which == 0 else math.nan)).tape)
        return found

    def test_each_step_is_its_own_and_knows_the_loss_of_the_pass_it_uses(self):
        steps = self.closed(clears=True)

        assert [(s.number, s.which, len(s.micro_steps)) for s in steps] == [
            (5, 0, 1),
            (6, 1, 0),
            (7, 0, 1),
        ]
        assert [s.loss for s in steps] == [2.0, 2.0, 2.0]
        assert [s.settings[0]["lr"] for s in steps] == [0.1, 1.1, 0.1]

    @pytest.mark.parametrize(("clears", "fresh"), [(True, {0, 1}), (False, set())])
    def test_which_gradients_were_cleared_is_on_it(self, clears, fresh):
        first, _, third = self.closed(clears=clears)

        assert first.micro_steps[0].fresh == {0, 1}  # there was nothing yet
        assert third.micro_steps[0].fresh == fresh


def test_that_the_loop_clips_by_itself_is_on_it(model, optimizer):
    guard = FakeGuard()
    tape = LoopTape(guard, [optimizer])
    steps = []
    for number, clips in ((5, False), (6, True), (7, True)):
        guard.number = number - 1
        optimizer.zero_grad()
        tape.compute(lambda: model(X).square().mean()).backward()
        if clips:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        tape.close(optimizer, 1.0)
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
        steps.append(tape.take(record(number, **{"gradient.norm": norm})).tape)

    assert steps[0].own_clip is None
    assert steps[1].own_clip is steps[2].own_clip
    assert steps[1].own_clip.max_norm == 0.25
