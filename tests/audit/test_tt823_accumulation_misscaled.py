import pytest

from trimtab.audit import AccumulationMisscaled
from trimtab.findings import Evidence

CAUSES = {
    0.25: "the loss is divided by the number of micro-batches twice, or is a sum already; it acts "
    "like a learning rate that is too low",
    2.0: "the loss is divided by another number than that of the micro-batches (4); it acts like a "
    "learning rate that is too high",
    0.5: "the loss is divided by another number than that of the micro-batches (4); it acts like a "
    "learning rate that is too low",
    -1.0: "the loss is negated on its way, so that the optimizer climbs",
}


@pytest.mark.parametrize("factor", CAUSES)
def test_fires_on_a_multiple(accumulate, by_share, factor):
    def scale(setup):
        for p in setup.model.parameters():
            p.grad *= factor

    assert accumulate(lambda *args: by_share(*args, before_step=scale)).findings == [
        AccumulationMisscaled().finding(
            what=f"the gradient of 4 micro-batches is {factor:.4g} times that of the whole batch",
            evidence=(
                Evidence(
                    name="gradient over that of the whole batch", value=factor, normal="1"
                ),
            ),
            cause=CAUSES[factor],
            fix="divide once: each mean loss by the number of micro-batches, or multiply it by its "
            "share of the examples; a loss that is a sum is not divided at all",
        )
    ]  # fmt: skip


def test_a_sum_is_not_to_be_divided(accumulate, built_wide):
    def summed(outputs, targets):
        return (outputs - targets[:, None]).square().sum()

    def body(divisor):
        def accumulating(setup, micro_batches):
            setup.optimizer.zero_grad()
            for x, y in micro_batches:
                (setup.loss_fn(setup.model(x), y) / divisor).backward()
            setup.optimizer.step()

        return accumulating

    def build(seed):
        return built_wide(seed, loss_fn=summed)

    assert accumulate(body(1), build).ok
    assert [f.name for f in accumulate(body(4), build).findings] == ["accumulation-misscaled"]


def test_silent_on_the_right_scale(accumulate, by_share):
    assert accumulate(by_share).ok
