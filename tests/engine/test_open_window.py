"""The window of a Stepper by itself; with everything around it, see test_stepper.py."""

import pytest
import torch

from trimtab import StateError
from trimtab.engine._open_window import OpenWindow
from trimtab.engine._step_tape import StepTape


@pytest.fixture
def window(problem):
    return OpenWindow(
        problem.model,
        problem.adamw(),
        accumulate=2,
        precision="fp32",
        scaler=None,
        tape=StepTape(None),
        micro_guard=None,
    )


def gradients(problem):
    return [p.grad for p in problem.model.parameters()]


def test_is_due_when_it_is_full_and_says_what_it_held(problem, window):
    for weight, rows in ((48.0, slice(0, 48)), (16.0, slice(48, 64))):
        assert not window.due
        window.backward(lambda rows=rows: problem.loss(rows), weight, at_once=True)
    assert (window.count, window.due) == (2, True)
    with pytest.raises(StateError, match="window of 2 micro-batches is full"):
        window.backward(problem.loss, 1.0, at_once=True)

    divisor, weight, loss = window.close()

    assert (divisor, weight) == (64 / 48, 64.0)
    assert loss.item() == pytest.approx(problem.loss().item())
    assert (window.count, window.due) == (0, False)


def test_what_is_dropped_leaves_no_gradient(problem, window):
    window.backward(problem.loss, 1.0, at_once=True)

    window.drop()

    assert gradients(problem) == [None] * 4
    assert window.state_dict() is None


def test_goes_on_from_its_state(problem, window):
    window.backward(problem.loss, 3.0, at_once=True)
    state = window.state_dict()
    before = [g.clone() for g in gradients(problem)]
    window.drop()

    window.load_state_dict(state)

    assert window.count == 1
    assert all(torch.equal(a, b) for a, b in zip(gradients(problem), before, strict=True))


def test_counts_no_micro_batch_as_left_out_without_a_judge(problem, window):
    window.backward(problem.loss, 1.0, at_once=True)

    assert float(window.take_num_dropped()) == 0
