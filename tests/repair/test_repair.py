import random

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.diagnosis import Outcome
from trimtab.errors import ConfigError
from trimtab.repair import Scaled, TrainingSetup, repair
from trimtab.repair._apply import apply
from trimtab.repair._first import First
from trimtab.repair._goal import Goal
from trimtab.repair._plans import name_of
from trimtab.repair._remedy import Order
from trimtab.repair._repair import _Repair
from trimtab.repair._run import Run
from trimtab.repair._tried import Tried


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
    assert result.extra == pytest.approx(50 / 120)


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


def test_a_run_that_cannot_arrive_any_more_is_broken_off(make_build):
    build = make_build(optimizer=sgd(1e-3))
    fresh = weights(build(0))

    def stuck(model):  # half of the way at once, and not a step further
        return 1.0 if all(map(torch.equal, model.state_dict().values(), fresh)) else 0.5

    result = repair(build, steps=100, metric=stuck, target=0.0, higher_is_better=False)

    assert not result.repaired
    lengths = [attempt.steps for attempt in result.attempts[1:]]
    assert set(lengths) == {20, 60}
    assert len(lengths) == len({attempt.name for attempt in result.attempts[1:]}) + lengths.count(
        60
    )


def test_plans_that_change_nothing_more_are_not_tried(make_build, task):
    result = repair(make_build(), steps=60, metric=lambda model: 0.0, target=1.0)
    names = [attempt.name for attempt in result.attempts]
    assert not any("usual_loss" in name for name in names)  # it is the usual one
    assert len(names) > 5


def tried_of(build, *actions, steps=5):
    plan = [Order(action=action, args=args) for action, args in actions]
    setup = build(0)
    tried = Tried(tuple(plan), Run(setup, 0), apply(setup, plan))
    tried.run.go(steps)
    return tried


@pytest.mark.parametrize(
    ("value", "gaps", "factor"),
    [
        (-0.05, [0.3, 0.2, 0.05], "3"),
        (-0.05, [0.3, 0.06, 0.05], "0.33"),
        (-0.4, [0.4, 0.4, 0.4], None),
    ],
)
def test_a_plan_that_all_but_arrived_goes_on_at_another_pace(make_build, value, gaps, factor):
    build = make_build()
    goal = Goal(lambda model: 0.0, 0.0, higher_is_better=False)
    repairing = _Repair(build, 50, 0, goal, 3.0)
    repairing.start = -1.0
    best = tried_of(build, ("use_float32", {}), steps=50)
    best.value, best.gaps, best.outcome = value, gaps, best.run.outcome()
    plan = repairing._promising(First(build(0)), best, -1.0)
    expected = f"use_float32, scale_learning_rate(factor={factor})" if factor else ""
    assert name_of(plan) == expected
    repairing.done.add(expected)
    assert repairing._promising(First(build(0)), best, -1.0) == ()
    best.outcome = Outcome(None, None, None, ())  # a ruin that came back
    repairing.done.clear()
    assert repairing._promising(First(build(0)), best, -1.0) == ()


def test_a_recurrent_net_gets_gates_without_a_trial(make_build):
    build = make_build(model=lambda: nn.Sequential(nn.GRUCell(4, 8), nn.Linear(8, 1)))
    repairing = _Repair(build, 50, 0, Goal(), 3.0)
    best = tried_of(build, ("unfreeze", {}))
    best.value = 0.2
    plan = repairing._promising(First(build(0)), best, 0.1)
    assert name_of(plan).startswith("unfreeze, gate_recurrence, use_adamw(lr=0.01)")
    best.value = 0.0  # it was of no use
    assert name_of(repairing._promising(First(build(0)), best, 0.1)).startswith("gate_recurrence")
    repairing.spent = repairing.budget
    assert repairing._promising(First(build(0)), best, 0.1) == ()


class Table(nn.Module):
    """Its inputs are indices, kept as numbers of floating point; it never learns."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.table(x[:, 0].long()).detach().exp().log1p() * 0)


def test_what_cannot_be_run_is_said_and_tried_without_scaled_inputs(make_build, task):
    pairs = [(y.sign() + 1, y) for y in task.y]
    build = make_build(model=Table, batches=pairs)
    result = repair(build, steps=60, metric=lambda m: 0.0, target=1.0)
    failed = [i for i, a in enumerate(result.attempts) if a.error]
    assert result.attempts[failed[0]].error == "IndexError: index out of range in self"
    recipes = [a.name for a in result.attempts if "insert_norms" in a.name]
    assert "normalise_inputs" in recipes[0]
    assert recipes[1] == recipes[0].replace("normalise_inputs, ", "")


def test_without_a_target_a_slow_run_is_made_faster(make_build):
    build = make_build(optimizer=sgd(3e-3), train_step=never_zeroed)
    result = repair(build, steps=60)
    assert result.repaired
    assert result.edits[0].what == "loop body"
    goods = [a for a in result.attempts if a.good]
    assert len(goods) > 1
    assert goods[-1].value > goods[0].value


def test_without_a_target_a_good_run_that_is_done_costs_no_more(make_build):
    result = repair(make_build(optimizer=sgd(0.1), train_step=never_zeroed), steps=120)
    assert result.repaired
    assert result.attempts[-1].good
    assert result.attempts[-1].value > 0.9
    assert len(result.attempts) == 2
