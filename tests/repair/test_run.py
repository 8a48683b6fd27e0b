import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.repair._run import Run


def net():
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3),
                         nn.Linear(16, 1))  # fmt: skip


def weights(setup):
    return [t.clone() for t in setup.model.state_dict().values()]


@pytest.mark.parametrize("judged", [False, True])
def test_in_parts_as_in_one_plain_loop(make_build, train, task, judged):
    data = TensorDataset(task.x.flatten(0, 1), task.y.flatten(0, 1))

    def build(seed):
        return make_build(net, batches=DataLoader(data, 16, shuffle=True))(seed)

    run = Run(build(3), seed=3)
    before = torch.get_rng_state()

    for steps in (7, 1, 22):
        run.go(steps, judged=judged)
        run.outcome()

    assert run.steps == 30
    assert torch.equal(torch.get_rng_state(), before)
    plain = train(build(3), 30, seed=3)
    assert all(map(torch.equal, weights(run.setup), weights(plain)))


def test_outcome_tells_what_was_learned(make_build):
    run = Run(make_build()(0), seed=0)
    run.go(60)
    outcome = run.outcome()
    assert outcome.learned > 0.5
    assert len(outcome.losses) == 60
    assert not outcome.broken


def test_a_run_that_breaks_is_over(make_build):
    run = Run(make_build(optimizer=lambda p: torch.optim.SGD(p, lr=1e6))(0), seed=0)
    run.go(50, judged=True)
    steps = run.steps
    assert steps < 50
    assert run.is_over
    assert math.isnan(run.losses[-1])
    run.go(10)
    assert run.steps == steps
    assert run.findings[0].code == "TT401"


def test_a_loop_that_raises_is_over(make_build):
    def step(model, optimizer, loss_fn, x, y):
        raise ValueError("no")

    run = Run(make_build(train_step=step)(0), seed=0)
    run.go(5, judged=True)
    assert run.is_over
    assert str(run.error) == "no"
    assert [f.code for f in run.findings] == ["TT430"]


def test_a_loop_that_gives_no_loss_is_not_over(make_build):
    def step(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()

    run = Run(make_build(train_step=step)(0), seed=0)
    run.go(20)
    assert run.steps == 20
    assert not run.is_over


def test_evaluation_mode_is_looked_at_and_left(make_setup):
    def model():
        return nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5))

    run = Run(make_setup(model=model), 0)
    run.go(10)
    trained = run.outcome().end
    evaluated = run.evaluated()
    assert evaluated.loss < trained.loss
    assert all(m.training for m in run.setup.model.modules())
    run.error = ValueError("no")
    assert run.evaluated() is None
