import statistics

import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from trimtab.diagnosis import ClippedToNothing
from trimtab.findings import Evidence, Fix


def clipped(clip, threshold):
    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        clip(model.parameters(), threshold)
        optimizer.step()
        return loss

    return body


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
def test_fires(watch, line_of, clip, attached):
    norms = []

    def noted(params, threshold):
        params = list(params)
        norms.append(float(torch.cat([p.grad.flatten() for p in params]).norm()))
        clip(params, threshold)

    trace = watch(clipped(noted, 1e-5), attached=attached)

    (found,) = ClippedToNothing().check(trace)
    norm = statistics.median(norms[:8])
    factor = found.evidence[0].value
    assert found == ClippedToNothing().finding(
        what=f"clipping at 1e-05 shrank gradients of norm {norm:.3g} by a factor of "
        f"{1 / factor:.3g}",
        site="train_step",
        file=__file__,
        line=line_of(noted, "clip(params"),
        evidence=(Evidence(name="median clip coefficient", value=factor, normal=">= 0.01"),),
        cause="the clipping threshold is far below any gradient, so every step is clipped to next "
        "to nothing",
        fix="raise the threshold to about the median gradient norm, such as 1.0",
        remedy=Fix(action="clip_gradients", args={"max_norm": pytest.approx(norm)}),
    )
    if clip is clip_grad_norm_:
        assert factor == pytest.approx(1e-5 / norm, rel=0.2)


@pytest.mark.parametrize("threshold", [0.1, 1.0, float("inf")])
def test_silent_on_thresholds_in_use(watch, threshold):
    assert list(ClippedToNothing().check(watch(clipped(clip_grad_norm_, threshold)))) == []


@pytest.mark.parametrize("unscaled", [False, True])
def test_a_loss_scale_is_another_fault(watch, unscaled):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    trace = watch(body)

    assert any(e.kind == "clip" for e in trace.events)
    assert list(ClippedToNothing().check(trace)) == []


def test_silent_on_few_clippings(watch):
    trace = watch(clipped(clip_grad_norm_, 1e-5), calls=3)

    assert list(ClippedToNothing().check(trace)) == []
