import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from trimtab.diagnosis import ScaledGradientsClipped
from trimtab.findings import Evidence


def scaled(clip, *, scale=1024.0, unscale=None, enabled=True):
    """Return a loop body that clips before it unscales, or after."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=enabled)

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        if unscale == "before":
            scaler.unscale_(optimizer)
        clip(model)
        if unscale == "after":
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return body


def by_norm(model):
    clip_grad_norm_(model.parameters(), 1.0)


def by_value(model):
    clip_grad_value_(model.parameters(), clip_value=0.5)


def tensor_norm(model):
    torch.nn.utils.clip_grad_norm_(model.parameters(), torch.tensor(1.0))


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("unscale", [None, "after"])
@pytest.mark.parametrize(
    ("clip", "threshold", "true"),
    [
        (by_norm, "1", "0.00098"),
        (by_value, "0.5", "0.00049"),
        (tensor_norm, "1", "0.00098"),
    ],
)
def test_fires(watch, line_of, clip, threshold, true, unscale, attached):
    trace = watch(scaled(clip, unscale=unscale), attached=attached)

    assert list(ScaledGradientsClipped().check(trace)) == [
        ScaledGradientsClipped().finding(
            what=f"gradients were clipped to {threshold} before unscaling, in 8 of 8 watched steps",
            site="train_step",
            file=__file__,
            line=line_of(clip, "clip_grad_"),
            evidence=(Evidence(name="loss scale while clipping", value=1024.0, normal="1"),),
            cause=f"they still carried the loss scale of 1024, so the true threshold was {true}",
            fix="call scaler.unscale_(optimizer) right before clip_grad_norm_",
        )
    ]


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(
    "settings", [{"unscale": "before"}, {"enabled": False}, {"scale": 1.0}], ids=str
)
def test_silent_after_unscaling_or_without_a_scale(watch, settings, attached):
    trace = watch(scaled(by_norm, **settings), attached=attached)

    assert any(e.kind == "clip" for e in trace.events)
    assert list(ScaledGradientsClipped().check(trace)) == []


def test_silent_on_measuring_the_norm(watch):
    def measure(model):
        clip_grad_norm_(model.parameters(), float("inf"))

    assert list(ScaledGradientsClipped().check(watch(scaled(measure)))) == []


def test_silent_on_clipping_after_the_step(watch):
    scaler = torch.amp.GradScaler("cpu")

    def body(model, optimizer, loss_fn, x, y):  # another fault: TT429
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        by_norm(model)
        return loss

    assert list(ScaledGradientsClipped().check(watch(body))) == []


def test_silent_on_accumulation_that_is_unscaled(watch):
    scaler = torch.amp.GradScaler("cpu")

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        for part, labels in zip(x.chunk(2), y.chunk(2), strict=True):
            loss = loss_fn(model(part), labels)
            scaler.scale(loss / 2).backward()
        scaler.unscale_(optimizer)
        by_norm(model)
        scaler.step(optimizer)
        scaler.update()
        return loss

    assert list(ScaledGradientsClipped().check(watch(body))) == []
