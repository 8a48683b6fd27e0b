"""Labels that the loss cannot take."""

import torch
from torch import nn

from trimtab.preflight.tt504_labels_out_of_range import LabelsOutOfRange


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_labels_counted_from_one(judge, shown, classes):
    model, (x, y) = net(), classes

    (finding,) = judge(
        LabelsOutOfRange(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x, y + 1),
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT504 labels-out-of-range at targets: 14 of 32 "
            "labels are out of range: they run from 1 to 3, and the output has 3 classes"
        ),
        "labels 1 to 3, normal 0 to 2",
        "They are counted from 1 instead of 0.",
        "subtract 1 from the labels",
    ]


def test_fires_on_a_label_for_the_unknown(judge, shown, classes):
    model, (x, y) = net(), classes

    (finding,) = judge(
        LabelsOutOfRange(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x, y - 1),
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT504 labels-out-of-range at targets: 8 of 32 "
            "labels are out of range: they run from -1 to 1, and the output has 3 classes"
        ),
        "labels -1 to 1, normal 0 to 2",
        ("The output has too few classes, or labels for padding or the unknown are not ignored."),
        "give the output 2 classes, or pass ignore_index for labels that do not count",
    ]


def test_fires_on_float_labels(judge, shown, classes):
    model, (x, y) = net(), classes

    (finding,) = judge(
        LabelsOutOfRange(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x, y.float()),
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT504 labels-out-of-range at targets: "
            "cross_entropy is given labels of dtype float32 and shape (32,)"
        ),
        "dtype float32, normal int64",
        (
            "Class indices have to be integers; floats are taken for probabilities and "
            "need the shape of the output."
        ),
        "call y.long() on class indices",
    ]


def test_fires_on_binary_targets_of_plus_and_minus_one(judge, shown, classes):
    model, (x, _y) = net(), classes

    (finding,) = judge(
        LabelsOutOfRange(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.BCEWithLogitsLoss(),
        (x, x[:, :3].sign()),
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT504 labels-out-of-range at targets: the "
            "targets of a binary cross-entropy run from -1 to 1"
        ),
        "targets -1 to 1, normal 0 to 1",
        (
            "Binary cross-entropy takes them for probabilities; outside of 0 to 1 it has "
            "no lower bound and the loss runs away to minus infinity."
        ),
        (
            "map the labels to 0 and 1, (y + 1) / 2 for -1 and 1, or use CrossEntropyLoss"
            " for more than two classes"
        ),
    ]


def test_is_silent_on_labels_that_are_ignored(judge, classes):
    model, (x, y) = net(), classes
    y[::3] = 255

    assert (
        judge(
            LabelsOutOfRange(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(ignore_index=255),
            (x, y),
        )
        == []
    )


def test_is_silent_on_probabilities(judge, classes):
    model, (x, _y) = net(), classes

    assert (
        judge(
            LabelsOutOfRange(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x, x[:, :3].softmax(1)),
        )
        == []
    )


def test_is_silent_on_soft_binary_targets(judge, classes):
    model, (x, _y) = net(), classes

    assert (
        judge(
            LabelsOutOfRange(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.BCEWithLogitsLoss(),
            (x, x[:, :3].sigmoid()),
        )
        == []
    )
