"""What is kept of a window's micro-batches."""

import math

import pytest
import torch
from torch import nn

from trimtab.engine._step_tape import StepTape


class FakeGuard:
    def __init__(self, *, keeps_tape=True):
        self.number, self.keeps_tape = 4, keeps_tape


@pytest.fixture
def optimizer():
    return torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1, momentum=0.9)


X = torch.arange(6.0).reshape(3, 2)


def total():
    return X.sum()


def fill(tape, *weights):
    """Make micro-batches of these weights."""
    for weight in weights:
        micro = tape.note(total, weight, "bf16")
        tape.add(micro, factor=0.5, loss=torch.tensor(weight), dropped=False)


class TestClosing:
    def test_gives_the_next_step_as_it_is_about_to_be_made(self, optimizer):
        tape = StepTape(FakeGuard())
        fill(tape, 1.0, 3.0)

        step = tape.close(optimizer, 4.0, None)

        assert (step.number, step.divisor, step.skipped, step.flagged) == (5, 4.0, False, False)
        assert math.isnan(step.loss)
        assert math.isnan(step.norm)
        assert [m.weight for m in step.micro_steps] == [1.0, 3.0]
        (group,) = step.settings
        assert (group["lr"], group["momentum"]) == (0.1, 0.9)
        assert "params" not in group

    def test_keeps_what_each_micro_batch_was(self, optimizer):
        tape = StepTape(FakeGuard())
        fill(tape, 3.0)

        (micro,) = tape.close(optimizer, 1.0, None).micro_steps

        assert (micro.factor, float(micro.loss), micro.dropped) == (0.5, 3.0, False)
        assert micro.precision == "bf16"
        assert micro.compute() == X.sum()
        assert any(torch.equal(t, X) for t in micro.batch.values())
        assert micro.random is not None

    def test_takes_the_loss_scale_into_the_divisor(self, optimizer):
        tape = StepTape(FakeGuard())
        fill(tape, 1.0)

        assert float(tape.close(optimizer, 4.0, torch.tensor(8.0)).divisor) == 32.0

    def test_opens_the_next_window(self, optimizer):
        tape = StepTape(FakeGuard())
        fill(tape, 1.0)
        tape.close(optimizer, 1.0, None)
        fill(tape, 2.0)

        assert [m.weight for m in tape.close(optimizer, 1.0, None).micro_steps] == [2.0]

    def test_of_an_empty_window_gives_nothing(self, optimizer):
        assert StepTape(FakeGuard()).close(optimizer, 1.0, None) is None


class TestWhatCannotBeReplayed:
    @pytest.mark.parametrize("guard", [None, FakeGuard(keeps_tape=False)])
    def test_without_replays_nothing_is_kept(self, optimizer, guard):
        tape = StepTape(guard)
        assert tape.note(total, 1.0, "fp32") is None
        fill(tape, 1.0)

        assert tape.close(optimizer, 1.0, None) is None

    def test_a_loss_that_is_no_function_spoils_its_window_and_no_other(self, optimizer):
        tape = StepTape(FakeGuard())
        fill(tape, 1.0)

        assert tape.note(X.sum(), 1.0, "fp32") is None

        assert tape.close(optimizer, 1.0, None) is None
        fill(tape, 1.0)
        assert tape.close(optimizer, 1.0, None) is not None

    def test_a_window_whose_beginning_is_unknown_is_given_up(self, optimizer):
        """As after a resume in the middle of one."""
        tape = StepTape(FakeGuard())
        tape.drop(unseen=True)
        fill(tape, 1.0)

        assert tape.close(optimizer, 1.0, None) is None

    def test_what_was_dropped_is_forgotten(self, optimizer):
        tape = StepTape(FakeGuard())
        tape.note(X.sum(), 1.0, "fp32")
        fill(tape, 1.0)
        tape.drop()
        fill(tape, 2.0)

        assert [m.weight for m in tape.close(optimizer, 1.0, None).micro_steps] == [2.0]
