import pytest
import torch

from trimtab.diagnosis import LossNegated
from trimtab.findings import Evidence, Fix


def negated(sign, scaler=None):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = sign * loss_fn(model(x), y)
        if scaler is None:
            loss.backward()
            optimizer.step()
            return loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return body


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_fires(watch, line_of, scaled, attached):
    body = negated(-1, torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None)
    trace = watch(body, attached=attached)

    assert list(LossNegated().check(trace)) == [
        LossNegated().finding(
            what="8 of 8 backward passes started from minus the loss",
            site="train_step",
            file=__file__,
            line=line_of(body, "scale(loss).backward" if scaled else "loss.backward"),
            evidence=(
                Evidence(name="loss given to backward() over the loss", value=-1.0, normal="> 0"),
            ),
            cause="the sign of the loss is wrong, so the optimizer maximises it (gradient ascent)",
            fix="call loss.backward() without the minus sign",
            remedy=Fix(action="negate_loss"),
        )
    ]


@pytest.mark.parametrize("sign", [1, 0.25, -0.01])
def test_silent_on_the_loss_itself_and_on_parts_of_it(watch, sign):
    assert list(LossNegated().check(watch(negated(sign)))) == []


def test_silent_on_what_the_loop_maximises_by_itself(watch):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        reward = model(x).softmax(1)[torch.arange(16), y].mean()
        (-reward).backward()
        optimizer.step()
        return -reward

    assert list(LossNegated().check(watch(body))) == []
