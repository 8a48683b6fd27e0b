import torch

from trimtab.audit import AccumulationDiffers
from trimtab.findings import Evidence

FIX = (
    "let every micro-batch call backward() before optimizer.step(), with its share of the window's "
    "examples or tokens as weight, as trimtab.Stepper does"
)


def weighed(factors):
    def body(setup, micro_batches):
        setup.optimizer.zero_grad()
        total = sum(len(x) for x, _ in micro_batches)
        for (x, y), factor in zip(micro_batches, factors, strict=True):
            (setup.loss_fn(setup.model(x), y) * factor * len(x) / total).backward()
        setup.optimizer.step()

    return body


def test_fires_on_a_micro_batch_that_is_left_out(accumulate):
    assert accumulate(weighed([1, 1, 1, 0])).findings == [
        AccumulationDiffers().finding(
            what="of 4 micro-batches, number 4 is not in the gradient",
            evidence=(
                Evidence(
                    name="weights of the micro-batches",
                    value="25 %, 25 %, 25 %, 0 %",
                    normal="25 %, 25 %, 25 %, 25 %",
                ),
            ),
            cause="micro-batches are left out, such as the last ones of a window",
            fix=FIX,
        )
    ]


def test_fires_on_other_weights(accumulate):
    (found,) = accumulate(weighed([2, 1, 1, 1])).findings

    assert found.what == "4 micro-batches have other weights in the gradient than they should"
    assert found.evidence[0].value == "50 %, 25 %, 25 %, 25 %"


def test_fires_on_something_else_in_the_gradient(accumulate, by_share):
    def disturb(setup):
        generator = torch.Generator().manual_seed(0)
        for p in setup.model.parameters():
            p.grad += 0.1 * p.grad.norm() * torch.randn(p.shape, generator=generator)

    (found,) = accumulate(lambda *args: by_share(*args, before_step=disturb)).findings

    share = found.evidence[0].value
    assert (
        found.what == f"{100 * share:.2g} % of the gradient comes from none of the 4 micro-batches"
    )
    assert "clipping by value, noise" in found.fix


def test_silent_on_the_right_weights(accumulate):
    assert accumulate(weighed([1, 1, 1, 1])).ok
