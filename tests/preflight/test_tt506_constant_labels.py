"""Labels that are all the same."""

import torch
from torch import nn

from trimtab.preflight.tt506_constant_labels import ConstantLabels


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_sorted_data(judge, shown, classes):
    model, (x, y) = net(), classes

    (finding,) = judge(
        ConstantLabels(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x, 0 * y + 2),
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT506 constant-labels at targets: all 32 labels "
            "of the batch are 2"
        ),
        "different labels 1, normal >= 2",
        (
            "The data is sorted by label and not shuffled, the class is rare, or the "
            "labels are made wrongly."
        ),
        ("set shuffle=True in the data loader, and look at a few labels beside their inputs"),
    ]


def test_fires_on_constant_targets(judge, shown, classes):
    model, (x, _y) = net(), classes
    model[4] = nn.Linear(16, 1)

    (finding,) = judge(
        ConstantLabels(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.MSELoss(),
        (x, torch.full((32, 1), 0.5)),
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT506 constant-labels at targets: all 32 labels "
            "of the batch are 0.5"
        ),
        "different labels 1, normal >= 2",
        (
            "The data is sorted by label and not shuffled, the class is rare, or the "
            "labels are made wrongly."
        ),
        ("set shuffle=True in the data loader, and look at a few labels beside their inputs"),
    ]


def test_advises_on_two_classes(judge, shown, classes):
    model, (x, _y) = net(), classes
    model[4] = nn.Linear(16, 1)

    (finding,) = judge(
        ConstantLabels(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.BCEWithLogitsLoss(),
        (x, torch.ones(32, 1)),
    )

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT506 constant-labels at targets: all 32 labels of"
            " the batch are 1"
        ),
        "different labels 1, normal >= 2",
        (
            "The data is sorted by label and not shuffled, the class is rare, or the "
            "labels are made wrongly."
        ),
        ("set shuffle=True in the data loader, and look at a few labels beside their inputs"),
    ]


def test_is_silent_on_shuffled_data(judge, classes):
    model = net()

    assert (
        judge(
            ConstantLabels(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_few_examples(judge, classes):
    model, (x, y) = net(), classes

    assert (
        judge(
            ConstantLabels(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x[:4], 0 * y[:4]),
        )
        == []
    )
