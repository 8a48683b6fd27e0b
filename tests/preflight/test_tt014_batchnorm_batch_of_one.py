"""BatchNorm over a single example."""

import torch
from torch import nn

from trimtab.preflight.tt014_batchnorm_batch_of_one import BatchnormBatchOfOne


def pictures(size):
    norm = nn.BatchNorm2d(8)
    layers = [nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)]
    return nn.Sequential(*layers), (torch.randn(size, 3, 8, 8), torch.arange(size) % 3)


def test_fires_on_one_picture(judge, shown):
    model, batch = pictures(1)

    (finding,) = judge(
        BatchnormBatchOfOne(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        batch,
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT014 batchnorm-batch-of-one at 1: 1 BatchNorm "
            "modules take their statistics from 1 example at a time"
        ),
        "batch size 1, normal >= 16",
        (
            "The statistics of so small a batch are noise, or the example's own, and "
            "differ from the running ones that evaluation uses."
        ),
        (
            "use a larger batch (drop_last=True if only the last one is short), or "
            "GroupNorm or LayerNorm, which need none"
        ),
    ]


def test_fires_on_one_row_that_torch_refuses(judge, shown, classes):
    model, (x, y) = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)), classes

    (finding,) = judge(
        BatchnormBatchOfOne(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x[:1], y[:1]),
    )

    assert shown(finding) == [
        (
            "error, slow_convergence: TT014 batchnorm-batch-of-one at 1: 1 BatchNorm "
            "modules take their statistics from 1 example at a time"
        ),
        "batch size 1, normal >= 16",
        (
            "The statistics of so small a batch are noise, or the example's own, and "
            "differ from the running ones that evaluation uses."
        ),
        (
            "use a larger batch (drop_last=True if only the last one is short), or "
            "GroupNorm or LayerNorm, which need none"
        ),
    ]


def test_advises_on_very_small_batches(judge, shown):
    model, batch = pictures(4)

    (finding,) = judge(
        BatchnormBatchOfOne(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        batch,
    )

    assert shown(finding) == [
        (
            "advice, slow_convergence: TT014 batchnorm-batch-of-one at 1: 1 BatchNorm "
            "modules take their statistics from 4 examples at a time"
        ),
        "batch size 4, normal >= 16",
        (
            "The statistics of so small a batch are noise, or the example's own, and "
            "differ from the running ones that evaluation uses."
        ),
        (
            "use a larger batch (drop_last=True if only the last one is short), or "
            "GroupNorm or LayerNorm, which need none"
        ),
    ]


def test_is_silent_on_sixteen(judge):
    model, batch = pictures(16)

    assert (
        judge(
            BatchnormBatchOfOne(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            batch,
        )
        == []
    )


def test_is_silent_in_eval_mode(judge):
    model, batch = pictures(1)
    model.eval()

    assert (
        judge(
            BatchnormBatchOfOne(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            batch,
        )
        == []
    )
