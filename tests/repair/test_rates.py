import pytest
import torch
from torch.optim import lr_scheduler

from trimtab.repair._apply import apply
from trimtab.repair._rates import usual_rate
from trimtab.repair._remedy import Order


def once(setup, action, **args):
    return apply(setup, [Order(action=action, args=args)])


def rates_of_run(setup, steps, task):
    """Train plainly, and return the rate that each step was made with."""
    seen = []
    setup.optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    for x, y in (task.pairs * 10)[:steps]:
        setup.optimizer.zero_grad()
        setup.loss_fn(setup.model(x), y).backward()
        if setup.train_step is None:
            setup.optimizer.step()
        if setup.scheduler is not None:
            setup.scheduler.step()
    return seen


def test_scaling_reaches_the_schedule_too(make_setup, task):
    setup = make_setup()
    setup.scheduler = lr_scheduler.LambdaLR(setup.optimizer, lambda step: 0.5**step)

    (edit,) = once(setup, "scale_learning_rate", factor=0.1)

    assert edit.diff == "learning rate: 0.01 -> 0.001"
    assert edit.advice == "use lr=0.001"
    assert rates_of_run(setup, 3, task) == pytest.approx([1e-3, 5e-4, 2.5e-4])


def test_each_group_has_its_own_line_where_they_differ(make_setup):
    setup = make_setup()
    setup.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0})

    edits = once(setup, "scale_learning_rate", factor=0.5)

    assert [e.diff for e in edits] == [
        "learning rate of param group 0: 0.01 -> 0.005",
        "learning rate of param group 1: 1 -> 0.5",
    ]


def test_set_without_a_rate_takes_a_usual_one(make_setup):
    setup = make_setup(optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    (edit,) = once(setup, "set_learning_rate")
    assert edit.diff == "learning rate: 0 -> 0.05"
    assert usual_rate(torch.optim.Adagrad(setup.model.parameters())) == 1e-3


def test_dropped_schedule_leaves_the_rate_that_it_began_with(make_setup, task):
    setup = make_setup()
    setup.scheduler = lr_scheduler.StepLR(setup.optimizer, 1, 0.1)
    setup.scheduler.optimizer.step()
    setup.scheduler.step()

    (edit,) = once(setup, "drop_schedule")

    assert edit.diff == "schedule: StepLR -> a constant learning rate of 0.01"
    assert setup.scheduler is None
    assert rates_of_run(setup, 3, task) == [0.01] * 3


def test_schedule_of_the_loop_body_is_overruled(make_setup, task):
    setup = make_setup()
    schedule = lr_scheduler.StepLR(setup.optimizer, 1, 0.1)

    def step(model, optimizer, loss_fn, x, y):
        optimizer.step()
        schedule.step()

    setup.train_step = step
    once(setup, "drop_schedule")
    seen = []
    setup.optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    for _ in range(3):
        step(setup.model, setup.optimizer, setup.loss_fn, *task.pairs[0])

    assert seen == [0.01] * 3


def test_nothing_to_drop_is_no_edit(make_setup):
    assert once(make_setup(), "drop_schedule") == []


def test_cap_holds_a_rising_schedule(make_setup, task):
    setup = make_setup()
    setup.scheduler = lr_scheduler.LambdaLR(setup.optimizer, lambda step: 2.0**step)

    (edit,) = once(setup, "cap_learning_rate", lr=0.03)

    assert edit.diff == "largest learning rate: whatever the schedule gives -> 0.03"
    assert rates_of_run(setup, 4, task) == pytest.approx([0.01, 0.02, 0.03, 0.03])


def test_warm_up_rises_linearly_and_leaves_the_rate_alone(make_setup, task):
    setup = make_setup()

    (edit,) = once(setup, "warm_up", steps=4)

    assert edit.diff == "warm-up: none -> linear over 4 steps"
    seen = rates_of_run(setup, 6, task)
    assert seen == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert setup.optimizer.param_groups[0]["lr"] == 0.01
