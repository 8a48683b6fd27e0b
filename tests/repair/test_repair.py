import random

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.repair import Scaled, TrainingSetup, repair


def weights(setup):
    return list(setup.model.state_dict().values())


def sgd(lr, **settings):
    return lambda params: torch.optim.SGD(params, lr=lr, **settings)


def test_a_healthy_run_comes_back_untouched(make_build, train):
    build = make_build()

    result = repair(build, steps=150)

    assert str(result) == "healthy: nothing was changed"
    assert result.healthy
    assert not result.repaired
    assert result.extra == 0
    assert result.edits == []
    plain = train(build(0), 150)
    assert all(map(torch.equal, weights(result.setup), weights(plain)))
    assert result.setup.optimizer.state_dict().keys() == plain.optimizer.state_dict().keys()


def test_a_rate_that_is_too_high(make_build):
    build = make_build(optimizer=sgd(30.0))
    result = repair(build, steps=100)
    assert result.repaired
    assert result.diff in {"learning rate: 30 -> 3", "learning rate: 30 -> 0.3"}
    assert result.setup.optimizer.param_groups[0]["lr"] == pytest.approx(
        float(result.edits[0].after)
    )
    assert [a.good for a in result.attempts] == [False] * (len(result.attempts) - 1) + [True]


def never_zeroed(model, optimizer, loss_fn, x, y):
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def test_a_loop_body_is_replaced_and_the_lines_are_said(make_build, train):
    build = make_build(optimizer=sgd(0.1), train_step=never_zeroed)

    result = repair(build, steps=120)

    assert result.repaired
    assert result.diff == "loop body: never_zeroed -> zero_grad, forward, backward, step"
    assert result.advice[0].startswith("in the training step (")
    assert "gradients were not cleared between steps (zero_grad)" in result.advice[0]
    plain = train(make_build(optimizer=sgd(0.1))(0), 120)
    assert all(map(torch.equal, weights(result.setup), weights(plain)))
    assert result.extra == pytest.approx(100 / 120)


def test_the_target_decides(make_build, task):
    x, y = task.x.flatten(0, 1), task.y.flatten(0, 1)

    def error(model):
        return ((model(x) - y).square().mean() / y.var()).item()

    build = make_build(optimizer=sgd(1e-4))
    result = repair(build, steps=100, metric=error, target=0.1, higher_is_better=False)
    assert result.repaired
    assert result.metric == error(result.setup.model) <= 0.1
    assert not result.healthy_before

    easy = repair(build, steps=100, metric=error, target=5.0, higher_is_better=False)
    assert easy.healthy_before
    assert easy.edits == []


def test_what_cannot_be_mended_is_never_called_repaired(make_build, task):
    generator = torch.Generator().manual_seed(1)
    noise = [(x, torch.randn(16, 1, generator=generator)) for x in task.x]

    result = repair(
        make_build(batches=noise), steps=60, metric=lambda model: 0.0, target=1.0, max_extra=2.0
    )

    assert not result.repaired
    assert not result.healthy
    assert str(result).startswith("not repaired, with ")
    assert result.extra <= 2.0
    assert not any(attempt.good for attempt in result.attempts)
    assert result.edits == []  # no change was better than none


def test_no_budget_means_no_change(make_build):
    result = repair(make_build(optimizer=sgd(30.0)), steps=50, max_extra=0.0)
    assert not result.repaired
    assert result.edits == []
    assert result.extra == 0


def test_raw_inputs_are_standardised_inside_of_the_model(make_build, task):
    pairs = [(x * torch.tensor([1.0, 1000, 50, 1]) + 500, y) for x, y in task.pairs]
    inputs, targets = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])

    def error(model):
        return ((model(inputs) - targets).square().mean() / targets.var()).item()

    build = make_build(batches=pairs, optimizer=sgd(0.1))
    result = repair(build, steps=100, metric=error, target=0.2, higher_is_better=False)

    assert result.repaired
    assert isinstance(result.setup.model, Scaled)
    assert error(result.setup.model) <= 0.2


def test_examples_that_are_not_finite_are_left_out(make_build, task):
    pairs = [(x.clone(), y) for x, y in task.pairs]
    pairs[7][0][3, 1] = float("nan")
    result = repair(make_build(batches=pairs), steps=100)
    assert result.repaired
    assert result.diff == "examples with NaN or infinite values: trained on -> left out"


def test_it_is_the_same_each_time_and_leaves_no_trace(make_build):
    build = make_build(optimizer=sgd(30.0))
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    one, two = (repair(build, steps=60, seed=4) for _ in range(2))

    assert str(one) == str(two)
    assert all(map(torch.equal, weights(one.setup), weights(two.setup)))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


def test_arguments_are_checked(make_build):
    with pytest.raises(ConfigError, match=r"^steps must be a whole number of at least 1, got 0\.$"):
        repair(make_build(), steps=0)
    with pytest.raises(ConfigError, match=r"^max_extra must be finite and not negative, got -1"):
        repair(make_build(), steps=5, max_extra=-1)
    with pytest.raises(ConfigError) as error:
        repair(lambda seed: nn.Linear(1, 1), steps=5)
    assert str(error.value) == "build(seed) must return a trimtab.TrainingSetup, got Linear."


def test_a_setup_is_what_build_returns(make_build):
    assert isinstance(make_build()(0), TrainingSetup)
