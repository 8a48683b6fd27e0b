import pytest
import torch

from trimtab.diagnosis import NoBackward
from trimtab.findings import Evidence


def without(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    optimizer.step()
    return loss


@pytest.mark.parametrize("attached", [False, True])
def test_fires(watch, line_of, attached):
    trace = watch(without, attached=attached)

    assert list(NoBackward().check(trace)) == [
        NoBackward().finding(
            what="8 of 8 optimizer steps came without a backward pass",
            site="train_step",
            file=__file__,
            line=line_of(without, "optimizer.step"),
            evidence=(Evidence(name="steps without a gradient", value=8.0, normal="0"),),
            cause="loss.backward() is missing, so there is no gradient to follow",
            fix="call loss.backward() before optimizer.step()",
        )
    ]


def by_autograd(model, optimizer, loss_fn, x, y):
    params = list(model.parameters())
    loss = loss_fn(model(x), y)
    for p, grad in zip(params, torch.autograd.grad(loss, params), strict=True):
        p.grad = grad
    optimizer.step()
    return loss


def by_torch_autograd_backward(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    torch.autograd.backward([loss])
    optimizer.step()
    return loss


@pytest.mark.parametrize("body", [by_autograd, by_torch_autograd_backward])
def test_silent_on_gradients_that_came_another_way(watch, body):
    assert list(NoBackward().check(watch(body))) == []


def test_silent_on_closures(env, watch):
    def body(model, optimizer, loss_fn, x, y):
        def closure():
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(closure)

    optimizers = [torch.optim.LBFGS(env.model.parameters(), max_iter=3), env.optimizer]
    for optimizer in optimizers:
        assert list(NoBackward().check(watch(body, optimizer=optimizer))) == []
