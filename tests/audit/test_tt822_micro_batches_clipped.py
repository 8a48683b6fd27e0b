import pytest
from torch.nn.utils import clip_grad_norm_

from trimtab.audit import MicroBatchesClipped
from trimtab.findings import Evidence


def clip(setup):
    clip_grad_norm_(setup.model.parameters(), 1.0)


def test_fires_on_clipping_after_each_backward(accumulate, by_share):
    (found,) = accumulate(lambda *args: by_share(*args, after_backward=clip)).findings

    shares = found.evidence[0].value
    assert found == MicroBatchesClipped().finding(
        what="gradients are clipped after each micro-batch: where clipping acts, the micro-batches "
        f"count {shares}",
        evidence=(
            Evidence(
                name="shares of the micro-batches with clipping",
                value=shares,
                normal="25 %, 25 %, 25 %, 25 %",
            ),
        ),
        cause="clip_grad_norm_ is called before the window is complete, so what came first is "
        "scaled down again and again",
        fix="clip once, after the last backward() and before optimizer.step()",
    )
    first, *_, last = [float(part.rstrip(" %")) for part in shares.split(",")]
    assert first < 5 < 50 < last


@pytest.mark.parametrize("before_step", [None, clip])
def test_silent_on_clipping_once(accumulate, by_share, before_step):
    assert accumulate(lambda *args: by_share(*args, before_step=before_step)).ok
