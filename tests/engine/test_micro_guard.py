"""One bad micro-batch is left out of its accumulation window, and the rest is kept."""

import copy
import warnings
from contextlib import suppress

import pytest
import torch
from torch import nn

from trimtab import Stepper
from trimtab.engine._micro_guard import MicroGuard, kept_loss, kept_weight
from trimtab.guard import as_policy

ACCUMULATE = 4


def make_model():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        hidden = nn.Linear(8, 16, bias=False)  # before a norm, a bias gets rounding errors only
        return nn.Sequential(hidden, nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))


def batches(steps):
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        window = []
        for _ in range(ACCUMULATE):
            x = torch.randn(16, 8, generator=draw)
            window.append((x, x.sum(1, keepdim=True) + torch.randn(16, 1, generator=draw)))
        yield window


def train(*, guard, spoil=None, leave_out=None, steps=45, at_once=True, precision="fp32"):
    """Train; `spoil` and `leave_out` name the step and micro-batch that is bad or missing."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0, fused=True)
    stepper = Stepper(
        model,
        optimizer,
        schedule="constant",
        guard=guard,
        accumulate=ACCUMULATE,
        precision=precision,
    )
    stepper._at_once = stepper._updater.at_once = at_once
    for step, window in enumerate(batches(steps), 1):
        for i, (x, y) in enumerate(window):
            if (step, i) == leave_out:
                continue
            bad = spoil is not None and (step, i) == spoil[:2]
            factor = spoil[2] if bad else 1.0
            stepper.backward(
                lambda x=x, y=y, f=factor: f * nn.functional.mse_loss(model(x), y), weight=len(x)
            )
        if step == 40 and leave_out is not None:
            stepper.flush()
        else:
            stepper.step()
    stepper.sync()
    return model, optimizer, stepper


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_healthy_run_is_bit_for_bit_that_without(at_once):
    bare, *_ = train(guard=None, at_once=at_once)
    model, _, stepper = train(guard="spike", at_once=at_once)
    assert_same(model.state_dict(), bare.state_dict())
    assert stepper.guard.incidents == []


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("which", [0, 2, 3])
def test_it_is_as_if_the_micro_batch_had_never_been(at_once, factor, which):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, optimizer, stepper = train(guard="spike", spoil=(40, which, factor), at_once=at_once)
    other, its, _ = train(guard=None, leave_out=(40, which), at_once=at_once)
    # On an accelerator the weight of the window is a tensor, whose division rounds otherwise.
    close = assert_same if at_once else torch.testing.assert_close
    close(model.state_dict(), other.state_dict())
    close(optimizer.state_dict()["state"], its.state_dict()["state"])
    assert (stepper.steps, stepper.skipped_steps) == (45, 0)
    (incident,) = stepper.guard.incidents
    assert (incident.kind, incident.step, incident.finding.name) == ("skip", 40, "bad-batch")
    assert incident.suspects == {"steps": [40], "micro_batches": [which]}
    assert incident.finding.what.startswith(
        f"1 of 4 micro-batches (number {which + 1}) had a loss or gradient that is not finite or "
        "far out: loss "
    )
    assert incident.action == "The step was made without it, divided by the weight of the rest."


def test_a_window_of_bad_ones_alone_is_a_step_that_is_left_out():
    model = make_model()
    stepper = Stepper(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        schedule="constant",
        accumulate=2,
    )
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        stepper.backward(lambda: model(torch.ones(4, 8)).mean() * float("nan"), weight=4)
    with pytest.warns(UserWarning, match="TT512 bad-batch"):
        assert stepper.step().skipped
    assert_same(model.state_dict(), before)


def test_an_overflow_of_the_loss_scale_says_nothing_of_the_data():
    model = nn.Linear(4, 1)
    params = list(model.parameters())
    judged = MicroGuard(model, params, as_policy("nonfinite"), shared=False)
    loss = torch.tensor(1.0)
    for scaled in (True, False):
        with judged.aside():
            params[0].grad = torch.full_like(params[0], torch.inf)
            assert judged.after(loss, 1.0, scaled=scaled, at_once=True) is not scaled
    judged.close()


def test_what_raises_leaves_the_sum_as_it_was():
    model = nn.Linear(4, 1)
    params = list(model.parameters())
    judged = MicroGuard(model, params, as_policy("spike"), shared=False)
    params[0].grad = kept = torch.ones_like(params[0])
    with suppress(ZeroDivisionError), judged.aside():
        params[0].grad = torch.zeros_like(params[0])
        raise ZeroDivisionError
    assert params[0].grad is kept
    assert params[1].grad is None
    judged.close()


def test_later_verdicts_are_the_same_after_a_resume():
    model, optimizer, stepper = train(guard="spike")
    state, weights = copy.deepcopy(stepper.state_dict()), copy.deepcopy(model.state_dict())
    again = make_model()
    again.load_state_dict(weights)
    resumed = Stepper(
        again,
        torch.optim.AdamW(again.parameters(), lr=1e-2, weight_decay=0, fused=True),
        schedule="constant",
        accumulate=ACCUMULATE,
    )
    resumed.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each, its in ((model, stepper), (again, resumed)):
            for i, (x, y) in enumerate(next(batches(1))):
                f = 1e6 if i == 1 else 1.0
                its.backward(
                    lambda x=x, y=y, m=each, f=f: f * nn.functional.mse_loss(m(x), y), weight=16
                )
            its.step()
    assert_same(again.state_dict(), model.state_dict())
    assert stepper.guard.incidents[-1].suspects == resumed.guard.incidents[-1].suspects
    assert optimizer.state_dict()["state"][0]["step"] == 46


@pytest.mark.parametrize("bad", [True, torch.tensor(1.0)])
def test_what_was_left_out_counts_nothing(bad):
    assert float(kept_weight(3.0, bad)) == 0
    assert float(kept_loss(torch.tensor(torch.nan), bad)) == 0
    good = False if bad is True else torch.tensor(0.0)
    assert float(kept_weight(3.0, good)) == 3
    assert float(kept_loss(torch.tensor(2.0), good)) == 2
