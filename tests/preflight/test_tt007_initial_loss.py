"""A first loss above that of guessing."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight.tt007_initial_loss import InitialLoss


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_a_loud_output_layer(judge, shown, classes):
    model = net()
    nn.init.normal_(model[4].weight, std=20)

    (finding,) = judge(
        InitialLoss(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT007 initial-loss: the first loss is 23.1, while"
            " guessing has ln 3 = 1.1"
        ),
        "first loss 23.1, normal <= 4.1",
        "RMS of the outputs 22.3, normal below about 2",
        (
            "The model is confidently wrong from the start: the initial weights of its "
            "output layer, or what reaches it, are too large."
        ),
        (
            "initialise the output layer with small weights, as trimtab.init.auto_(model)"
            " does, and standardise the inputs"
        ),
    ]


def test_fires_on_a_loud_binary_output(judge, shown, classes):
    model, (x, y) = net(), classes
    nn.init.normal_(model[4].weight, std=20)

    (finding,) = judge(
        InitialLoss(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.BCEWithLogitsLoss(),
        (x, functional.one_hot(y, 3).float()),
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT007 initial-loss: the first loss is 8.4, while "
            "guessing has ln 2 = 0.693"
        ),
        "first loss 8.4, normal <= 3.69",
        "RMS of the outputs 22.3, normal below about 2",
        (
            "The model is confidently wrong from the start: the initial weights of its "
            "output layer, or what reaches it, are too large."
        ),
        (
            "initialise the output layer with small weights, as trimtab.init.auto_(model)"
            " does, and standardise the inputs"
        ),
    ]


def test_advises_on_a_somewhat_loud_output(judge, shown, classes):
    model = net()
    nn.init.normal_(model[4].weight, std=4)

    (finding,) = judge(
        InitialLoss(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT007 initial-loss: the first loss is 4.81, while"
            " guessing has ln 3 = 1.1"
        ),
        "first loss 4.81, normal <= 4.1",
        "RMS of the outputs 4.45, normal below about 2",
        (
            "The model is confidently wrong from the start: the initial weights of its "
            "output layer, or what reaches it, are too large."
        ),
        (
            "initialise the output layer with small weights, as trimtab.init.auto_(model)"
            " does, and standardise the inputs"
        ),
    ]


def test_fires_on_targets_that_are_not_standardised(judge, shown, classes):
    model, (x, _y) = net(), classes

    (finding,) = judge(
        InitialLoss(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.MSELoss(),
        (x, 1e3 * x[:, :3] + 500),
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT007 initial-loss: the targets are far from the "
            "outputs: mean 402 and RMS 997 against an output RMS of 0.08"
        ),
        "RMS of the targets 997, normal <= 30",
        (
            "The regression targets are not standardised (not normalised), so the loss "
            "starts huge, its gradients as well, and the output has a long way to go."
        ),
        (
            "subtract the targets' mean and divide by their standard deviation, over the "
            "training set, and undo it on predictions"
        ),
    ]


def test_fires_on_outputs_far_above_the_targets(judge, shown, classes):
    model, (x, _y) = net(), classes
    nn.init.normal_(model[4].weight, std=20)

    (finding,) = judge(
        InitialLoss(), model, torch.optim.Adam(model.parameters()), nn.MSELoss(), (x, x[:, :3])
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT007 initial-loss: the first outputs have an RMS"
            " of 22.3, the targets 0.917"
        ),
        "mean squared output against targets 591, normal <= 30",
        "The initial weights of the output layer, or what reaches it, are too large.",
        (
            "initialise the output layer with small weights, as trimtab.init.auto_(model)"
            " does, and standardise the inputs"
        ),
    ]


def test_is_silent_on_guessing(judge, classes):
    model = net()

    assert (
        judge(
            InitialLoss(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_class_weights_and_sums(judge, classes):
    model = net()

    assert (
        judge(
            InitialLoss(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(torch.tensor([9.0, 9.0, 9.0]), reduction="sum"),
            classes,
        )
        == []
    )


def test_is_silent_on_standardised_targets(judge, classes):
    model, (x, _y) = net(), classes

    assert (
        judge(
            InitialLoss(), model, torch.optim.Adam(model.parameters()), nn.MSELoss(), (x, x[:, :3])
        )
        == []
    )
