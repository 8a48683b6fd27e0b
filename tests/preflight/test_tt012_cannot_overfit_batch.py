"""A few examples that cannot be learnt."""

import torch
from torch import nn

from trimtab.preflight.tt012_cannot_overfit_batch import CannotOverfitBatch


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_one_input_with_many_labels(judge, shown, classes):
    model, (x, _y) = net(), classes

    (finding,) = judge(
        CannotOverfitBatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x[:1].expand(32, 8), torch.arange(32) % 3),
    )

    assert shown(finding) == [
        (
            "warning, no_learning: TT012 cannot-overfit-batch: 16 examples could not be "
            "learnt by heart: the loss went from 1.1 to 1.09 at best in 200 steps; the "
            "best constant guess has 1.09"
        ),
        "lowest loss 1.09, normal < 0.985",
        "The output is the same for all examples: the input does not reach it.",
        (
            "check that inputs and labels belong together, that each layer's output "
            "varies with its input, and that nothing between output and loss cuts the "
            "gradient"
        ),
    ]


def test_fires_on_dead_units(judge, shown, classes):
    model = net()
    nn.init.constant_(model[0].bias, -100)
    nn.init.constant_(model[2].bias, -100)

    (finding,) = judge(
        CannotOverfitBatch(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, no_learning: TT012 cannot-overfit-batch at 1: 16 examples could not"
            " be learnt by heart: the loss went from 1.12 to 0.9 at best in 200 steps; "
            "the best constant guess has 0.9"
        ),
        "lowest loss 0.9, normal < 0.81",
        "100% of the units of 1 are dead: zero on every example, so nothing passes.",
        (
            "check that inputs and labels belong together, that each layer's output "
            "varies with its input, and that nothing between output and loss cuts the "
            "gradient"
        ),
    ]


def test_is_silent_on_labels_at_random_which_can_be_learnt_by_heart(judge, classes, generator):
    model, (x, _y) = net(), classes

    assert (
        judge(
            CannotOverfitBatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x, torch.randint(3, (32,), generator=generator)),
        )
        == []
    )


def test_is_silent_on_dropout(judge, classes):
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))

    assert (
        judge(
            CannotOverfitBatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_says_nothing_without_time(judge, classes):
    model, (x, _y) = net(), classes

    assert (
        judge(
            CannotOverfitBatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x[:1].expand(32, 8), torch.arange(32) % 3),
            overfit_s=0,
        )
        == []
    )


def test_is_silent_on_models_smaller_than_the_labels(judge, classes):
    model, (x, _y) = nn.Linear(1, 1), classes

    assert (
        judge(
            CannotOverfitBatch(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.MSELoss(),
            (x[:, :1], x[:, 1:2]),
        )
        == []
    )
