"""Looking ahead on a copy."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from trimtab.errors import StateError
from trimtab.optim import warmup_cosine
from trimtab.preflight._schedule import has_warmup, look_ahead


def optimizer(lr=1.0):
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr, momentum=0.9)


BUILDERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(o, 20)],
        [5],
    ),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=40),
    "ours": lambda o: warmup_cosine(o, 5, 30),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(o, 5), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BUILDERS)
def test_equals_really_stepping_and_changes_nothing(name):
    ours = optimizer()
    scheduler = BUILDERS[name](ours)
    before = copy.deepcopy(scheduler.state_dict()), copy.deepcopy(ours.state_dict())

    rates = [rate for (rate,) in look_ahead(scheduler, ours, 30)]

    assert str((scheduler.state_dict(), ours.state_dict())) == str(before)
    expected = []
    for _ in range(30):
        expected.append(ours.param_groups[0]["lr"])
        ours.step()
        scheduler.step()
    assert rates == pytest.approx(expected, rel=1e-9)


def test_without_a_schedule_rates_stay():
    ours = optimizer(0.3)

    assert look_ahead(None, ours, 3) == [[0.3]] * 3
    assert look_ahead(lr_scheduler.ReduceLROnPlateau(ours), ours, 2) == [[0.3]] * 2


def test_far_ahead_repeats_the_last_rate():
    ours = optimizer()

    rates = look_ahead(lr_scheduler.ExponentialLR(ours, 0.999), ours, 1500)

    assert len(rates) == 1500
    assert rates[1000] == rates[-1]


def test_a_schedule_by_tokens_cannot_be_stepped():
    ours = optimizer()
    scheduler = warmup_cosine(ours, warmup_tokens=100, total_tokens=1000)

    with pytest.raises(StateError, match="counts tokens"):
        look_ahead(scheduler, ours, 3)


@pytest.mark.parametrize(
    ("name", "rises"), [("lambda", False), ("sequential", True), ("ours", True), ("chained", False)]
)
@pytest.mark.filterwarnings("ignore")
def test_warmup_is_a_rising_rate(name, rises):
    ours = optimizer()

    assert has_warmup(BUILDERS[name](ours), [ours]) is rises


def test_warmup_shows_in_the_optimizer_alone():
    ours = optimizer()
    lr_scheduler.LinearLR(ours, 0.1, total_iters=10)

    assert has_warmup(None, [ours])
    assert not has_warmup(None, [optimizer()])
