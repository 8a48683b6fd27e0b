import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from trimtab.diagnosis import ClippedAfterStep
from trimtab.findings import Evidence


def after(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    clip_grad_norm_(model.parameters(), 1.0)
    return loss


def before_backward(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad(set_to_none=False)
    clip_grad_norm_(model.parameters(), 1.0)
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("body", [after, before_backward])
def test_fires(watch, line_of, body, attached):
    trace = watch(body, attached=attached)

    assert list(ClippedAfterStep().check(trace)) == [
        ClippedAfterStep().finding(
            what="7 of 7 clippings came after the step that they were for",
            site="train_step",
            file=__file__,
            line=line_of(body, "clip_grad_norm_"),
            evidence=(Evidence(name="clippings before a step", value=0.0, normal="7"),),
            cause="gradients are clipped when the optimizer has used them already",
            fix="move clip_grad_norm_ between loss.backward() and optimizer.step()",
        )
    ]


def in_between(model, optimizer, loss_fn, x, y):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def in_a_closure(model, optimizer, loss_fn, x, y):
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        return loss

    return optimizer.step(closure)


@pytest.mark.parametrize("body", [in_between, in_a_closure])
def test_silent_between_backward_and_step(watch, body):
    trace = watch(body)

    assert any(e.kind == "clip" for e in trace.events)
    assert list(ClippedAfterStep().check(trace)) == []


def test_silent_on_measuring_the_norm(watch, correct):
    def body(model, *rest):
        loss = correct(model, *rest)
        clip_grad_norm_(model.parameters(), float("inf"))
        return loss

    assert list(ClippedAfterStep().check(watch(body))) == []


def test_silent_on_the_clipping_of_another_model(watch, make_model, correct):
    other = make_model()
    theirs = torch.optim.SGD(other.parameters(), lr=0.1)

    def body(model, optimizer, loss_fn, x, y):
        in_between(other, theirs, loss_fn, x, y)
        return correct(model, optimizer, loss_fn, x, y)

    assert list(ClippedAfterStep().check(watch(body))) == []
