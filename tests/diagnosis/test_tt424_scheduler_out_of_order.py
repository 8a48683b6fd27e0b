import pytest
import torch

from trimtab.diagnosis import SchedulerOutOfOrder
from trimtab.findings import Evidence

ONE_STEP_AHEAD = "ignore:Detected call of `lr_scheduler.step:UserWarning"


@pytest.fixture
def scheduler(env):
    return torch.optim.lr_scheduler.StepLR(env.optimizer, 5)


@pytest.mark.filterwarnings(ONE_STEP_AHEAD)
@pytest.mark.parametrize("attached", [False, True])
def test_fires(watch, scheduler, line_of, attached):
    def before(model, optimizer, loss_fn, x, y):
        scheduler.step()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    trace = watch(before, attached=attached)

    assert list(SchedulerOutOfOrder().check(trace)) == [
        SchedulerOutOfOrder().finding(
            what="scheduler.step() came before optimizer.step(), already in the first step",
            site="train_step",
            file=__file__,
            line=line_of(before, "scheduler.step"),
            evidence=(
                Evidence(
                    name="schedule steps before the first optimizer step", value=1.0, normal="0"
                ),
            ),
            cause="the schedule runs one step ahead, so its first learning rate is never used",
            fix="call scheduler.step() after optimizer.step()",
        )
    ]


@pytest.mark.filterwarnings(ONE_STEP_AHEAD)
def test_fires_between_backward_and_step(watch, scheduler):
    def between(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        scheduler.step()
        optimizer.step()
        return loss

    assert len(list(SchedulerOutOfOrder().check(watch(between)))) == 1


def test_silent_after_the_step(watch, scheduler, correct):
    def after(*args):
        loss = correct(*args)
        scheduler.step()
        return loss

    assert list(SchedulerOutOfOrder().check(watch(after))) == []


def test_silent_at_the_start_of_each_epoch_but_the_first(watch, scheduler, correct):
    calls = iter(range(1000))

    def epochs(*args):
        call = next(calls)
        if call and call % 3 == 0:
            scheduler.step()
        return correct(*args)

    assert list(SchedulerOutOfOrder().check(watch(epochs, calls=20))) == []


@pytest.mark.filterwarnings(ONE_STEP_AHEAD)
def test_silent_when_a_loss_scaler_leaves_the_first_steps_out(watch, scheduler):
    scaler = torch.amp.GradScaler("cpu")
    calls = iter(range(1000))

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss * (float("inf") if next(calls) < 2 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        return loss

    assert list(SchedulerOutOfOrder().check(watch(body))) == []


def test_silent_on_the_schedule_of_another_optimizer(watch, make_model, correct):
    other = torch.optim.SGD(make_model().parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(other, 5)

    def body(*args):
        other.step()
        scheduler.step()
        return correct(*args)

    assert list(SchedulerOutOfOrder().check(watch(body))) == []
