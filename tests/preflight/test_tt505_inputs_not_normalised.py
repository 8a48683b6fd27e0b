"""Inputs that are not normalised."""

import torch
from torch import nn

from trimtab.preflight.tt505_inputs_not_normalised import InputsNotNormalised


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


class Scaled(nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.head = nn.Linear(features, outputs)

    def forward(self, x):
        return self.head(x / 255)


def test_fires_on_raw_pixels(judge, shown, classes):
    model, (x, y) = net(), classes

    (finding,) = judge(
        InputsNotNormalised(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        ((60 * x + 128).clamp(0, 255).round(), y),
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT505 inputs-not-normalised at inputs: the inputs"
            " are not normalised, worst feature 6: mean 145, standard deviation 53.3"
        ),
        "RMS of the largest feature 154, normal <= 20, best 1",
        (
            "Initialisation and learning rates assume inputs of mean 0 and deviation 1; "
            "unnormalised ones make the first layer's gradients as large as themselves."
        ),
        (
            "standardise each feature with the training set's mean and standard deviation"
            " (pixels: divide by 255 first), or begin the model with a norm"
        ),
    ]


def test_fires_on_features_of_other_scales(judge, shown, classes):
    model, (x, y) = net(), classes

    (finding,) = judge(
        InputsNotNormalised(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x * torch.tensor([10, 0.01, 1, 1, 1, 1, 1, 1]), y),
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT505 inputs-not-normalised at inputs: the "
            "features' scales differ by a factor of 717, largest feature 0: mean -1.92, "
            "standard deviation 7.48"
        ),
        "ratio of deviations 717, normal <= 100",
        (
            "Initialisation and learning rates assume inputs of mean 0 and deviation 1; "
            "unnormalised ones make the first layer's gradients as large as themselves."
        ),
        (
            "standardise each feature with the training set's mean and standard deviation"
            " (pixels: divide by 255 first), or begin the model with a norm"
        ),
    ]


def test_fires_on_tiny_inputs(judge, shown, classes):
    model, (x, y) = net(), classes

    (finding,) = judge(
        InputsNotNormalised(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (1e-5 * x, y),
    )

    assert shown(finding) == [
        (
            "warning, slow_convergence: TT505 inputs-not-normalised at inputs: the inputs"
            " are tiny, largest feature 5: mean 1.2e-06, standard deviation 1.06e-05"
        ),
        "RMS of the inputs 9.39e-06, normal >= 0.001, best 1",
        (
            "Initialisation and learning rates assume inputs of mean 0 and deviation 1; "
            "unnormalised ones make the first layer's gradients as large as themselves."
        ),
        (
            "standardise each feature with the training set's mean and standard deviation"
            " (pixels: divide by 255 first), or begin the model with a norm"
        ),
    ]


def test_is_silent_on_standardised_inputs(judge, classes):
    model = net()

    assert (
        judge(
            InputsNotNormalised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_pixels_between_0_and_1(judge, classes):
    model, (x, y) = net(), classes

    assert (
        judge(
            InputsNotNormalised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x.sigmoid(), y),
        )
        == []
    )


def test_is_silent_on_a_norm_that_comes_first(judge, classes):
    model, (x, y) = nn.Sequential(nn.BatchNorm1d(8), *net()), classes

    assert (
        judge(
            InputsNotNormalised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (60 * x + 128, y),
        )
        == []
    )


def test_is_silent_on_scaling_inside_the_model(judge, classes):
    model, (x, y) = Scaled(8, 3), classes

    assert (
        judge(
            InputsNotNormalised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (255 * x, y),
        )
        == []
    )


def test_is_silent_on_constant_and_rare_features(judge, classes):
    model, (x, y) = net(), classes

    assert (
        judge(
            InputsNotNormalised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (x * (torch.arange(8) > 3), y),
        )
        == []
    )


def test_is_silent_on_tokens(judge, classes):
    model, (_x, y) = nn.Sequential(nn.Embedding(1000, 8), *net()), classes

    assert (
        judge(
            InputsNotNormalised(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            (y + 900, y),
        )
        == []
    )
