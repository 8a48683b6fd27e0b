import torch

from trimtab.audit import MicroBatchesWeighedEqually
from trimtab.findings import Evidence

FIX = (
    "multiply each loss by its share of the window's examples or tokens, or use "
    "trimtab.Stepper.backward(loss, weight=number of examples or tokens)"
)


def means(setup, micro_batches):
    setup.optimizer.zero_grad()
    for x, y in micro_batches:
        (setup.loss_fn(setup.model(x), y) / len(micro_batches)).backward()
    setup.optimizer.step()


def test_fires_on_a_mean_of_means(accumulate):
    assert accumulate(means).findings == [
        MicroBatchesWeighedEqually().finding(
            what="4 micro-batches of 3, 7, 9, 13 examples count alike in the gradient",
            evidence=(
                Evidence(
                    name="weights of the micro-batches",
                    value="25 %, 25 %, 25 %, 25 %",
                    normal="9.38 %, 21.9 %, 28.1 %, 40.6 %",
                ),
            ),
            cause="the mean of the micro-batches' mean losses is not the mean over the batch: "
            "examples or tokens of small micro-batches count for more",
            fix=FIX,
        )
    ]


def weighted_classes(outputs, targets):
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=outputs.dtype)
    return torch.nn.functional.cross_entropy(outputs, targets, weight=weight)


def test_tells_examples_that_are_not_what_the_loss_is_the_mean_of(accumulate, built_wide, by_share):
    def build(seed):
        return built_wide(seed, loss_fn=weighted_classes)

    found = accumulate(by_share, build).findings

    assert [f.code for f in found] == ["TT821"]
    assert found[0].what == "4 micro-batches of 8, 8, 8, 8 examples count alike in the gradient"


def test_silent_on_shares(accumulate, by_share):
    assert accumulate(by_share).ok
