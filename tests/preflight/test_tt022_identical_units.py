"""Units that start alike and stay alike."""

import torch
from torch import nn

from trimtab.preflight.tt022_identical_units import IdenticalUnits


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_constant_weights(judge, shown, classes):
    model = net()
    for p in model.parameters():
        nn.init.constant_(p, 0.1)

    (finding,) = judge(
        IdenticalUnits(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT022 identical-units at 0.weight: all 16 units of "
            "0.weight have the same weights, and still had them after 26 steps"
        ),
        "also 2.weight",
        "first weight 0.1, normal random",
        (
            "Units that start with identical (constant or zero) weights get the same "
            "gradient, so the symmetry between them is never broken."
        ),
        "initialise with random weights, by trimtab.init.auto_(model)",
    ]


def test_fires_on_zeros(judge, shown, classes):
    model = net()
    for p in model.parameters():
        nn.init.zeros_(p)

    (finding,) = judge(
        IdenticalUnits(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT022 identical-units at 0.weight: all 16 units of "
            "0.weight have the same weights, and still had them after 200 steps"
        ),
        "also 2.weight",
        "also 4.weight",
        "first weight 0, normal random",
        (
            "Units that start with identical (constant or zero) weights get the same "
            "gradient, so the symmetry between them is never broken."
        ),
        "initialise with random weights, by trimtab.init.auto_(model)",
    ]


def test_is_silent_on_a_head_that_starts_at_zero(judge, classes):
    model = net()
    nn.init.zeros_(model[4].weight)

    assert (
        judge(
            IdenticalUnits(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_random_weights(judge, classes):
    model = net()

    assert (
        judge(
            IdenticalUnits(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )
