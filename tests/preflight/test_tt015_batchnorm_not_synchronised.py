"""BatchNorm that is not synchronised."""

import torch
from torch import nn

from trimtab.preflight.tt015_batchnorm_not_synchronised import BatchnormNotSynchronised


def net():
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3)
    )


def test_fires_with_several_processes(judge, shown, classes):
    model = net()

    (finding,) = judge(
        BatchnormNotSynchronised(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
        world_size=4,
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT015 batchnorm-not-synchronised at 1: 1 "
            "BatchNorm modules are not synchronised across 4 processes"
        ),
        "processes 4, normal 1 without SyncBatchNorm",
        "examples a process 32, normal >= 32 if not synchronised",
        (
            "Each rank normalises by the statistics of its own batch, so the replicas "
            "compute different functions."
        ),
        (
            "call torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) before DDP or FSDP"
            " wraps it, or use GroupNorm"
        ),
    ]


def test_is_silent_in_one_process(judge, classes):
    model = net()

    assert (
        judge(
            BatchnormNotSynchronised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_syncbatchnorm(judge, classes):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net())

    assert (
        judge(
            BatchnormNotSynchronised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
            world_size=4,
        )
        == []
    )


def test_is_silent_on_frozen_statistics(judge, classes):
    model = net().eval()

    assert (
        judge(
            BatchnormNotSynchronised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
            world_size=4,
        )
        == []
    )
