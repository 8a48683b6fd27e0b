"""Losses that compare every prediction with every target."""

import torch
from torch import nn

from trimtab.preflight.tt009_broadcasting_loss import BroadcastingLoss


def ending(last, outputs=3):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs), last)


def test_fires_on_a_column_and_a_row(judge, shown, classes):
    model, (x, _y) = ending(nn.Identity(), 1), classes

    (finding,) = judge(
        BroadcastingLoss(), model, torch.optim.Adam(model.parameters()), nn.MSELoss(), (x, x[:, 0])
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT009 broadcasting-loss: mse_loss broadcasts an output "
            "of shape (32, 1) and a target of shape (32,) to (32, 32)"
        ),
        "values compared 1,024, normal 32",
        (
            "The shapes do not match, so broadcasting compares every prediction with "
            "every target of the batch, and the best that the model can learn is their "
            "mean."
        ),
        "give both the same shape: output.squeeze(-1), or target.unsqueeze(-1)",
    ]


def test_fires_on_a_hand_written_loss(judge, shown, classes):
    model, (x, _y) = ending(nn.Identity(), 1), classes

    (finding,) = judge(
        BroadcastingLoss(),
        model,
        torch.optim.Adam(model.parameters()),
        lambda o, y: (o - y).abs().mean(),
        (x, x[:, 0]),
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT009 broadcasting-loss: output - target broadcasts an "
            "output of shape (32, 1) and a target of shape (32,) to (32, 32)"
        ),
        "values compared 1,024, normal 32",
        (
            "The shapes do not match, so broadcasting compares every prediction with "
            "every target of the batch, and the best that the model can learn is their "
            "mean."
        ),
        "give both the same shape: output.squeeze(-1), or target.unsqueeze(-1)",
    ]


def test_is_silent_on_equal_shapes(judge, classes):
    model, (x, _y) = ending(nn.Identity(), 1), classes

    assert (
        judge(
            BroadcastingLoss(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.MSELoss(),
            (x, x[:, :1]),
        )
        == []
    )


def test_is_silent_on_one_target_for_all(judge, classes):
    model, (x, _y) = ending(nn.Identity(), 1), classes

    assert (
        judge(
            BroadcastingLoss(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.L1Loss(),
            (x, torch.zeros(1, 1)),
        )
        == []
    )
