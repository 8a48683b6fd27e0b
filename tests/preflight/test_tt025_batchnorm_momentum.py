"""BatchNorm whose running statistics do not run."""

import pytest
import torch
from torch import nn

from trimtab.preflight.tt025_batchnorm_momentum import BatchnormMomentum


def found(judge, classes, momentum, *, frozen=False):
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, momentum=momentum), nn.Linear(16, 3))
    if frozen:
        model[1].eval()
    optimizer = torch.optim.Adam(model.parameters())
    return list(judge(BatchnormMomentum(), model, optimizer, nn.CrossEntropyLoss(), classes))


def test_fires_on_statistics_that_never_move(judge, shown, classes):
    (finding,) = found(judge, classes, 0.0)

    assert shown(finding) == [
        "warning, silent_config_error: TT025 batchnorm-momentum at 1: 1 BatchNorm modules have a "
        "momentum of 0",
        "momentum 0, normal about 0.1",
        "The running statistics that evaluation uses hardly move from where they began.",
        "leave momentum at PyTorch's default of 0.1: it is the share of the new batch, not the "
        "share that is kept",
    ]


def test_fires_on_the_share_that_other_libraries_keep(judge, classes):
    (finding,) = found(judge, classes, 1 - 0.9999)

    assert "hardly move" in finding.cause


@pytest.mark.parametrize("momentum", [0.9, 0.99, 1.0])
def test_fires_on_statistics_of_the_last_batch(judge, classes, momentum):
    (finding,) = found(judge, classes, momentum)

    assert "are those of the last batch" in finding.cause


@pytest.mark.parametrize("momentum", [None, 0.1, 0.01, 0.001, 0.3])
def test_is_silent_on_usual_ones(judge, classes, momentum):
    assert found(judge, classes, momentum) == []


def test_is_silent_on_frozen_ones(judge, classes):
    assert found(judge, classes, 0.0, frozen=True) == []
