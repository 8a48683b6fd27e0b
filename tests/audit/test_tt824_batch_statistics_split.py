import torch
from torch import nn

from trimtab.audit import BatchStatisticsSplit
from trimtab.findings import Evidence


def test_fires_on_batch_norm(accumulate, built_wide, by_share):
    def build(seed):
        return built_wide(seed, nn.BatchNorm1d(8), nn.Dropout(0.3))

    (found,) = accumulate(by_share, build).findings

    apart = found.evidence[0].value
    assert 0.01 < apart < 2
    assert found == BatchStatisticsSplit().finding(
        what="BatchNorm lets examples look at each other: the gradient of 4 micro-batches is "
        f"{100 * apart:.2g} % away from that of the whole batch",
        site="1",
        evidence=(
            Evidence(name="relative difference of the gradients", value=apart, normal="<= 0.01"),
        ),
        cause="BatchNorm (1) takes its statistics from each micro-batch, not from the whole batch",
        fix="use GroupNorm or LayerNorm in place of BatchNorm, or larger micro-batches",
    )


def contrastive(outputs, targets):
    scores = outputs @ outputs.T
    return nn.functional.cross_entropy(scores, torch.arange(len(outputs)))


def test_fires_on_a_loss_that_compares_examples(accumulate, built_wide, by_share):
    def build(seed):
        return built_wide(seed, loss_fn=contrastive)

    (found,) = accumulate(by_share, build).findings

    assert found.what.startswith("the model or the loss lets examples look at each other")
    assert found.cause == (
        "model or loss compare the examples of a batch with each other, as contrastive losses and "
        "batch statistics do"
    )


def test_silent_on_norms_within_an_example(accumulate, built_wide, by_share):
    def build(seed):
        return built_wide(seed, nn.LayerNorm(8), nn.GroupNorm(2, 8))

    assert accumulate(by_share, build).ok


def test_the_threshold_can_be_changed(accumulate, built_wide, by_share):
    from trimtab.findings import Selection

    def build(seed):
        return built_wide(seed, nn.BatchNorm1d(8))

    lenient = Selection(settings={"TT824": {"max_difference": 2.0}})
    assert accumulate(by_share, build, selection=lenient).ok
