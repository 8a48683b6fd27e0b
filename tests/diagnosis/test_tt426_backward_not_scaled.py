import pytest
import torch

from trimtab.diagnosis import BackwardNotScaled
from trimtab.findings import Evidence


def cast(dtype, scaler=None, by_hand=1.0):
    """Return a loop body whose forward pass runs in half precision."""

    def body(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            output = model(x)
        loss = loss_fn(output.float(), y)
        total = by_hand * loss if scaler is None else scaler.scale(loss)
        total.backward()
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            for p in model.parameters():
                p.grad /= by_hand
            optimizer.step()
        return loss

    return body


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("disabled", [False, True])
def test_fires(watch, line_of, disabled, attached):
    scaler = torch.amp.GradScaler("cpu", enabled=False) if disabled else None
    body = cast(torch.float16, scaler)
    trace = watch(body, attached=attached)

    assert list(BackwardNotScaled().check(trace)) == [
        BackwardNotScaled().finding(
            what="8 backward passes of an fp16 forward pass began without a loss scale",
            site="train_step",
            file=__file__,
            line=line_of(body, "total.backward"),
            evidence=(Evidence(name="loss scale", value=1.0, normal=">= 1024"),),
            cause="fp16 gradients below 6e-8 become zero, so small ones are lost",
            fix="use torch.amp.GradScaler: scaler.scale(loss).backward(), scaler.step(optimizer), "
            "scaler.update(); or run autocast in bfloat16",
        )
    ]


def test_silent_on_what_is_scaled_or_bf16(watch, correct):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    assert list(BackwardNotScaled().check(watch(cast(torch.float16, scaler)))) == []
    assert list(BackwardNotScaled().check(watch(cast(torch.bfloat16)))) == []
    assert list(BackwardNotScaled().check(watch(cast(torch.float16, by_hand=512.0)))) == []
    assert list(BackwardNotScaled().check(watch(correct))) == []
