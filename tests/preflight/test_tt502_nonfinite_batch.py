"""NaN or infinity in a batch."""

import torch
from torch import nn

from trimtab.preflight.tt502_nonfinite_batch import NonfiniteBatch


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_one_nan(judge, shown, classes):
    model, (x, y) = net(), classes
    x[5, 2] = torch.nan

    (finding,) = judge(
        NonfiniteBatch(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), (x, y)
    )

    assert shown(finding) == [
        (
            "error, nan: TT502 nonfinite-batch at inputs: 1 of 256 values of the inputs "
            "are NaN or infinite, the first in row 5"
        ),
        "share that is not finite 0.00391, normal 0",
        "One such value makes the loss NaN, and from there all weights.",
        (
            "find the rows in the data (missing values, a division by a deviation of "
            "zero, the log of zero) and fill or drop them"
        ),
    ]


def test_fires_on_infinite_targets(judge, shown, classes):
    model, (x, _y) = net(), classes
    targets = x[:, :3].clone()
    targets[7:, 1] = torch.inf

    (finding,) = judge(
        NonfiniteBatch(), model, torch.optim.Adam(model.parameters()), nn.MSELoss(), (x, targets)
    )

    assert shown(finding) == [
        (
            "error, nan: TT502 nonfinite-batch at targets: 25 of 96 values of the targets"
            " are NaN or infinite, the first in row 7"
        ),
        "share that is not finite 0.26, normal 0",
        "One such value makes the loss NaN, and from there all weights.",
        (
            "find the rows in the data (missing values, a division by a deviation of "
            "zero, the log of zero) and fill or drop them"
        ),
    ]


def test_is_silent_on_large_numbers(judge, classes):
    model, (x, y) = net(), classes

    assert (
        judge(
            NonfiniteBatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (1e30 * x, y),
        )
        == []
    )
