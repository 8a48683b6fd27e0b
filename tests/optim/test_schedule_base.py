"""What every schedule does: groups, tensors, tokens, states."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from trimtab.errors import ConfigError, StateError
from trimtab.optim._schedules import (
    inverse_sqrt,
    polynomial,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    wsd,
)

PEAK = 3e-4
WITH_END = [warmup_cosine, warmup_linear, polynomial, wsd]
ALL = [*WITH_END, warmup_constant, inverse_sqrt]


def test_each_group_keeps_its_own_peak(make_optimizer):
    optimizer = make_optimizer(1.0, 0.1, 0.0)
    scheduler = warmup_linear(optimizer, 2, 4)
    optimizer.step()
    scheduler.step()

    assert isinstance(scheduler, LRScheduler)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.05, 0.0]
    assert scheduler.get_last_lr() == [0.5, 0.05, 0.0]
    assert scheduler.factor() == 0.5


def test_a_group_that_joins_later_follows(make_optimizer, rates):
    optimizer = make_optimizer(1.0)
    scheduler = warmup_linear(optimizer, 0, 10)
    rates(scheduler, 2)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.5})
    assert optimizer.param_groups[1]["lr"] == 0.5

    rates(scheduler, 3)
    state = copy.deepcopy(scheduler.state_dict())

    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.5, 0.25])
    other = make_optimizer(1.0, 0.5)
    resumed = warmup_linear(other, 0, 10)
    resumed.load_state_dict(state)
    assert rates(resumed, 5) == rates(scheduler, 5)
    assert other.param_groups[1]["lr"] == optimizer.param_groups[1]["lr"]


def test_a_group_that_joins_with_a_bad_rate_is_refused_before_the_step(make_optimizer):
    optimizer = make_optimizer()
    scheduler = warmup_linear(optimizer, 0, 10)
    optimizer.step()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": math.nan})

    with pytest.raises(ConfigError, match="param group 1 must be finite"):
        scheduler.step()

    assert scheduler.last_epoch == 0


def test_a_tensor_learning_rate_is_changed_in_place(rates):
    lr = torch.tensor(0.5)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=lr, capturable=False)
    scheduler = warmup_cosine(optimizer, 2, 10)
    held = optimizer.param_groups[0]["lr"]
    expected = [0.5 * scheduler.curve.factor(s) for s in range(12)]

    got = rates(scheduler, 6)
    state = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    got += rates(scheduler, 6)

    assert optimizer.param_groups[0]["lr"] is held
    assert got == pytest.approx(expected, abs=1e-7)
    scheduler.load_state_dict(state[1])
    optimizer.load_state_dict(state[0])
    assert rates(scheduler, 6) == got[6:]


def test_a_capturable_optimizer_keeps_its_tensor_when_a_state_is_loaded(rates):
    def make():
        optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=torch.tensor(0.5))
        return warmup_linear(optimizer, 2, 10)

    scheduler = make()
    rates(scheduler, 5)
    resumed = make()
    held = resumed.optimizer.param_groups[0]["lr"]

    resumed.load_state_dict(scheduler.state_dict())

    assert resumed.optimizer.param_groups[0]["lr"] is held
    assert rates(resumed, 6) == rates(scheduler, 6)


# Tokens.


@pytest.mark.parametrize("builder", ALL)
def test_tokens_equal_steps_when_every_step_has_as_many(builder, make_optimizer, rates, build):
    options = {"warmup_tokens": 5 * 512}
    if builder in WITH_END:
        options["total_tokens"] = 20 * 512
    by_steps, by_tokens = build(builder, make_optimizer()), builder(make_optimizer(), **options)
    expected = rates(by_steps, 30)

    got = []
    for _ in range(30):
        got.append(by_tokens.optimizer.param_groups[0]["lr"])
        by_tokens.optimizer.step()
        by_tokens.step_tokens(512)

    assert got == expected
    assert (by_tokens.counts_tokens, by_steps.counts_tokens) == (True, False)
    assert (by_tokens.tokens, by_tokens.last_epoch, by_steps.tokens) == (30 * 512, 30, 0)


@given(counts=st.lists(st.integers(0, 5_000), max_size=12))
def test_tokens_depend_on_their_sum_alone(counts, make_optimizer):
    scheduler = warmup_cosine(make_optimizer(), warmup_tokens=0.25, total_tokens=20_000)
    scheduler.optimizer.step()
    for count in counts:
        scheduler.step_tokens(count)

    assert scheduler.get_last_lr()[0] == PEAK * scheduler.curve.factor(sum(counts))


def test_a_token_schedule_refuses_plain_steps_and_the_other_way_round(make_optimizer):
    by_tokens = warmup_linear(make_optimizer(), warmup_tokens=0, total_tokens=10)
    by_steps = warmup_linear(make_optimizer(), 0, 10)

    with pytest.raises(StateError, match=r"counts tokens, .* Call step_tokens\(num_tokens\)"):
        by_tokens.step()
    with pytest.raises(StateError, match="counts steps"):
        by_steps.step_tokens(5)
    assert by_tokens.last_epoch == by_steps.last_epoch == 0


@pytest.mark.parametrize("count", [-1, 2.0, True, "3", None, math.nan])
def test_refuses_a_count_that_is_none(count, make_optimizer):
    scheduler = warmup_linear(make_optimizer(), warmup_tokens=0, total_tokens=10)
    scheduler.optimizer.step()

    with pytest.raises(ConfigError, match="num_tokens must be a whole number"):
        scheduler.step_tokens(count)

    assert (scheduler.tokens, scheduler.last_epoch) == (0, 0)


# Resuming.


@settings(max_examples=30, deadline=None)
@given(
    builder=st.sampled_from(ALL),
    before=st.integers(0, 25),
    optimizer_first=st.booleans(),
    tokens=st.booleans(),
)
def test_a_resumed_run_goes_on_bit_for_bit(
    builder, before, optimizer_first, tokens, make_optimizer, build
):
    def make():
        optimizer = make_optimizer(PEAK, 1e-3, cls=torch.optim.AdamW)
        if not tokens:
            return build(builder, optimizer)
        options = {"total_tokens": 200} if builder in WITH_END else {}
        return builder(optimizer, warmup_tokens=50, **options)

    def go(scheduler, steps):
        seen = []
        for step in steps:
            seen.append([g["lr"] for g in scheduler.optimizer.param_groups])
            scheduler.optimizer.step()
            scheduler.step_tokens(step) if tokens else scheduler.step()
        return seen

    whole, first, second = make(), make(), make()
    expected = go(whole, range(30))
    go(first, range(before))
    saved = json.loads(json.dumps(first.state_dict()))
    optimizer_state = copy.deepcopy(first.optimizer.state_dict())
    if optimizer_first:
        second.optimizer.load_state_dict(optimizer_state)
    second.load_state_dict(saved)
    if not optimizer_first:
        second.optimizer.load_state_dict(optimizer_state)

    assert go(second, range(before, 30)) == expected[before:]
    assert second.state_dict() == whole.state_dict()


def test_resumes_if_the_optimizer_was_loaded_before_it_was_built(make_optimizer, rates):
    scheduler = warmup_linear(make_optimizer(), 2, 20)
    rates(scheduler, 7)
    optimizer = make_optimizer()
    optimizer.load_state_dict(scheduler.optimizer.state_dict())
    resumed = warmup_linear(optimizer, 2, 20)
    resumed.load_state_dict(scheduler.state_dict())

    assert rates(resumed, 10) == rates(scheduler, 10)


def test_loading_leaves_a_rate_that_someone_else_set(make_optimizer, rates):
    scheduler = warmup_linear(make_optimizer(), 2, 20)
    rates(scheduler, 7)
    resumed = warmup_linear(make_optimizer(), 2, 20)
    resumed.optimizer.param_groups[0]["lr"] = 0.125

    resumed.load_state_dict(scheduler.state_dict())

    assert resumed.optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("builder", ALL)
def test_resumes_from_last_epoch_like_pytorch(builder, make_optimizer, rates, build):
    whole = build(builder, make_optimizer())
    expected = rates(whole, 25)
    first = build(builder, make_optimizer())
    rates(first, 8)

    resumed = build(builder, first.optimizer, last_epoch=first.last_epoch - 1)

    assert rates(resumed, 17) == expected[8:]


def test_a_copied_schedule_is_independent(make_optimizer, rates):
    scheduler = warmup_linear(make_optimizer(1.0), 0, 10)
    state = scheduler.state_dict()
    rates(scheduler, 3)

    assert state["last_epoch"] == 0
    assert state["_last_lr"] == [1.0]


def test_refuses_a_state_of_other_settings(make_optimizer):
    state = warmup_cosine(make_optimizer(), 5, 20, 0.1).state_dict()
    other = warmup_cosine(make_optimizer(), 5, 30)

    with pytest.raises(ConfigError) as error:
        other.load_state_dict(state)

    assert str(error.value) == (
        "The saved schedule has other settings: total 20 there, 30 here; decay 15 there, 25 here; "
        "min_ratio 0.1 there, 0.0 here. Build it with the settings it was saved with, or put the "
        'new ones into the state on purpose: state["curve"] = schedule.state_dict()["curve"].'
    )
    assert other.last_epoch == 0
    state["curve"] = other.state_dict()["curve"]
    other.load_state_dict(state)


@pytest.mark.parametrize("key", ["curve", "last_epoch", "base_lrs"])
def test_refuses_a_state_with_something_missing(key, make_optimizer):
    scheduler = warmup_cosine(make_optimizer(), 5, 20)
    state = scheduler.state_dict()
    del state[key]

    with pytest.raises(ConfigError, match=f"not the state of a trimtab schedule: {key} is missing"):
        scheduler.load_state_dict(state)


def test_refuses_a_state_of_more_groups(make_optimizer):
    state = warmup_cosine(make_optimizer(1.0, 2.0), 5, 20).state_dict()

    with pytest.raises(ConfigError, match="moved 2 param groups, the optimizer has 1"):
        warmup_cosine(make_optimizer(1.0), 5, 20).load_state_dict(state)


def test_runs_inside_sequential_lr(make_optimizer, rates):
    optimizer = make_optimizer()
    parts = [warmup_constant(optimizer, 4), warmup_linear(optimizer, 0, 5)]

    got = rates(SequentialLR(optimizer, parts, milestones=[6]), 12)

    assert got == pytest.approx(
        [PEAK * f for f in [0, 0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0]]
    )


@pytest.mark.parametrize("lr", [math.nan, math.inf, -1e-3, torch.tensor(math.nan)])
@pytest.mark.parametrize("key", ["lr", "initial_lr"])
def test_refuses_a_learning_rate_that_no_factor_makes_usable(lr, key, make_optimizer):
    optimizer = make_optimizer(1.0, 1.0)
    optimizer.param_groups[1][key] = lr

    with pytest.raises(ConfigError, match="learning rate of param group 1 must be finite"):
        warmup_cosine(optimizer, 1, 2)

    assert optimizer.param_groups[0]["lr"] == 1.0


def test_refuses_what_is_not_an_optimizer():
    with pytest.raises(ConfigError, match=r"moves a torch\.optim\.Optimizer, got Linear"):
        warmup_cosine(nn.Linear(1, 1), 1, 2)
