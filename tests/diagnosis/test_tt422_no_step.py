import pytest
import torch

from trimtab.diagnosis import NoStep
from trimtab.findings import Evidence


def without(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    return loss


@pytest.mark.parametrize("attached", [False, True])
def test_fires(watch, attached):
    trace = watch(without, calls=60, attached=attached)

    assert list(NoStep().check(trace)) == [
        NoStep().finding(
            what="40 calls of the loop body made no step of the optimizer",
            site="train_step",
            evidence=(Evidence(name="optimizer steps", value=0.0, normal=">= 1"),),
            cause="optimizer.step() is not called, or it is that of another optimizer",
            fix="call optimizer.step() after loss.backward()",
        )
    ]


def test_fires_on_the_step_of_an_optimizer_of_other_parameters(watch, make_model):
    other = torch.optim.SGD(make_model().parameters(), lr=0.1)

    def body(model, optimizer, loss_fn, x, y):
        loss = without(model, optimizer, loss_fn, x, y)
        other.step()
        return loss

    assert len(list(NoStep().check(watch(body, calls=40)))) == 1


def test_silent_on_few_calls(watch):
    assert list(NoStep().check(watch(without, calls=31))) == []


@pytest.mark.parametrize("every", [8, 32, 50])
def test_silent_on_accumulation_over_calls(watch, every):
    calls = iter(range(1, 1000))

    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        (loss / every).backward()
        if next(calls) % every == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    assert list(NoStep().check(watch(body, calls=60))) == []


def test_silent_on_steps_under_another_name(env, watch):
    def sharpness_aware_step(optimizer):
        with torch.no_grad():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.sub_(group["lr"] * p.grad)

    def body(model, optimizer, loss_fn, x, y):
        loss = without(model, optimizer, loss_fn, x, y)
        sharpness_aware_step(optimizer)
        return loss

    assert list(NoStep().check(watch(body, calls=40))) == []


def test_silent_when_a_loss_scaler_leaves_all_steps_out(watch):
    scaler = torch.amp.GradScaler("cpu")

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y) * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    assert list(NoStep().check(watch(body, calls=40))) == []
