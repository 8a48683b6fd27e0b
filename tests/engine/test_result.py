import math

import pytest


def test_an_idle_step_says_so(problem):
    stepper = problem.stepper(accumulate=2)
    stepper.backward(problem.loss)
    result = stepper.step()
    assert repr(result) == "StepResult(due=False, lr=0.01)"
    assert math.isnan(result.grad_norm)
    assert math.isnan(result.clip_coefficient)
    assert result.loss_scale == 1
    assert result.grad_norms is None


def test_a_step_shows_its_numbers(problem):
    stepper = problem.stepper(precision="fp16", clip=1e6)
    loss = stepper.backward(problem.loss)
    result = stepper.step()
    assert result.loss == pytest.approx(float(loss))
    assert result.loss_scale == 65536
    assert result.clip_coefficient == 1
    assert repr(result).startswith("StepResult(stepped=True, skipped=False, loss=")


def test_norms_are_those_of_the_parameters(problem):
    stepper = problem.stepper(precision="fp16", clip=0.1)
    stepper.backward(problem.loss)
    result = stepper.step()
    assert len(result.grad_norms) == 4
    assert float(result.grad_norms.square().sum().sqrt()) == pytest.approx(result.grad_norm)
