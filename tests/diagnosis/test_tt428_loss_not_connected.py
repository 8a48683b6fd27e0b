import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.diagnosis import LossNotConnected
from trimtab.findings import Evidence


def new_leaf(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss = torch.tensor(loss.item(), requires_grad=True)
    loss.backward()
    optimizer.step()
    return loss


def detached(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad(set_to_none=False)
    loss = loss_fn(model(x).detach().requires_grad_(), y)
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("body", [new_leaf, detached])
def test_fires(watch, line_of, body, attached):
    trace = watch(body, attached=attached)

    assert list(LossNotConnected().check(trace)) == [
        LossNotConnected().finding(
            what="8 backward passes gave no parameter a gradient",
            site="train_step",
            file=__file__,
            line=line_of(body, "loss.backward"),
            evidence=(Evidence(name="steps with a gradient", value=0.0, normal="8"),),
            cause="the loss is cut off from the model: by item(), detach(), .data, NumPy, argmax "
            "or a new torch.tensor",
            fix="compute the loss from the model's output by tensor operations, and remove "
            "requires_grad_ from it",
        )
    ]


@pytest.mark.parametrize("attached", [False, True])
def test_silent_on_a_correct_loop(watch, correct, attached):
    assert list(LossNotConnected().check(watch(correct, attached=attached))) == []


def test_silent_on_gradients_that_are_zero(watch):
    def hinge(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = functional.relu(model(x) - 1e6).mean()  # nothing violates the margin
        loss.backward()
        optimizer.step()
        return loss

    trace = watch(hinge)

    assert not any(e.facts["has_gradients"] for e in trace.events if e.kind == "step")
    assert list(LossNotConnected().check(trace)) == []


def test_silent_when_a_part_is_reached(watch, env):
    env.model[0].requires_grad_(False)

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model[3](model[:3](x).detach()), y)
        loss.backward()
        optimizer.step()
        return loss

    assert list(LossNotConnected().check(watch(body))) == []


def test_silent_on_sparse_gradients(watch, make_model, generator):
    model = make_model(nn.Sequential(nn.EmbeddingBag(20, 3, sparse=True)))

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x = torch.randint(20, (16, 4), generator=generator)
    optimizer = torch.optim.SparseAdam(model.parameters())
    trace = watch(body, model=model, optimizer=optimizer, pairs=[(x, x[:, 0] % 3)], calls=8)

    assert all(e.facts["has_gradients"] for e in trace.events if e.kind == "step")
    assert list(LossNotConnected().check(trace)) == []
