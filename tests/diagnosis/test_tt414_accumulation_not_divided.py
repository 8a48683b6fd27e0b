import pytest
import torch
from torch import nn

from trimtab.diagnosis import AccumulationNotDivided
from trimtab.findings import Evidence, Fix


def in_parts(divisor=1, num=4, *, reduction="mean", after=None):
    """Return a loop body that adds up micro-batches of one batch."""
    loss_of = nn.CrossEntropyLoss(reduction=reduction)

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        for part, labels in zip(x.chunk(num), y.chunk(num), strict=True):
            loss = loss_fn(model(part), labels)
            (loss / divisor).backward()
        if after is not None:
            after(model, loss_of)
        optimizer.step()
        return loss

    return body


def over_calls(divisor=1, num=4):
    """Return a loop body that steps in one call of several."""
    calls = iter(range(1, 1000))

    def body(model, optimizer, loss_fn, x, y):
        loss = loss_fn(model(x), y)
        (loss / divisor).backward()
        if next(calls) % num == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return body


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(("make", "num"), [(in_parts, 4), (over_calls, 4), (in_parts, 2)])
def test_fires(watch, line_of, make, num, attached):
    body = make(num=num)
    trace = watch(body, calls=40, attached=attached)

    assert list(AccumulationNotDivided().check(trace)) == [
        AccumulationNotDivided().finding(
            what=f"{num} micro-batches were added up for each optimizer step, and none of their "
            "losses was divided",
            site="train_step",
            file=__file__,
            line=line_of(body, ".backward()"),
            evidence=(
                Evidence(
                    name="loss given to backward() over the mean loss",
                    value=1.0,
                    normal=f"1/{num}",
                ),
            ),
            cause=f"gradient accumulation without division makes the gradient {num} times that of "
            "the whole batch, like a learning rate as many times too high",
            fix=f"call (loss / {num}).backward(), or use trimtab.Stepper(accumulate={num})",
            remedy=Fix(action="divide_loss", args={"by": num}),
        )
    ]


def test_fires_beside_a_loss_scale(watch):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        for part, labels in zip(x.chunk(4), y.chunk(4), strict=True):
            loss = loss_fn(model(part), labels)
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    for attached in (False, True):
        (found,) = AccumulationNotDivided().check(watch(body, attached=attached))
        assert found.remedy == Fix(action="divide_loss", args={"by": 4})


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("make", [in_parts, over_calls])
def test_silent_when_divided(watch, make, attached):
    trace = watch(make(divisor=4), calls=40, attached=attached)

    assert list(AccumulationNotDivided().check(trace)) == []


def test_silent_on_gradients_divided_afterwards(watch):
    def divide(model, _):
        for p in model.parameters():
            p.grad.data.div_(4)

    assert list(AccumulationNotDivided().check(watch(in_parts(after=divide)))) == []


def test_silent_on_losses_that_are_sums(watch):
    trace = watch(in_parts(), loss_fn=nn.CrossEntropyLoss(reduction="sum"))

    assert list(AccumulationNotDivided().check(trace)) == []


def whole_twice(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    for batch in (x, x + 0.1):  # two views of the same examples
        loss = loss_fn(model(batch), y)
        loss.backward()
    optimizer.step()
    return loss


def with_an_auxiliary_loss(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    hidden = model[:3](x)
    loss = loss_fn(model(x), y)
    loss.backward()
    (0.1 * hidden.square().mean()).backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("body", [whole_twice, with_an_auxiliary_loss])
def test_silent_on_several_losses_of_the_whole_batch(watch, body):
    assert list(AccumulationNotDivided().check(watch(body))) == []


class TimeFirst(nn.Module):
    """Takes nested inputs and reads the time axis first."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x["x"])[0][-1])


def test_silent_on_nested_inputs_with_another_axis_first(watch, make_model, generator):
    model = make_model(TimeFirst())
    x = torch.randn(16, 5, 8, generator=generator)
    y = torch.arange(16) % 3

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        for _ in range(2):
            loss = loss_fn(model({"x": x.transpose(0, 1)}), y)
            loss.backward()
        optimizer.step()
        return loss

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trace = watch(body, model=model, optimizer=optimizer, pairs=[(x, y)], calls=12)

    assert list(AccumulationNotDivided().check(trace)) == []


def test_silent_when_a_loss_scaler_leaves_every_second_step_out(watch):
    scaler = torch.amp.GradScaler("cpu")
    calls = iter(range(1000))

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        if next(calls) % 2 == 0:
            model[0].weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        return loss

    assert list(AccumulationNotDivided().check(watch(body, calls=30))) == []
