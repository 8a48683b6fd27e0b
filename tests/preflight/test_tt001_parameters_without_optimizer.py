"""Parameters that no optimizer moves."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight.tt001_parameters_without_optimizer import ParametersWithoutOptimizer


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 8)]
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layers[0](x).relu())


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output, y):
        return functional.cross_entropy(self.scale * output, y)


def test_fires_on_a_part_of_the_model(judge, shown, classes):
    model = net()
    optimizer = torch.optim.Adam(model[4].parameters())

    (finding,) = judge(
        ParametersWithoutOptimizer(), model, optimizer, nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT001 parameters-without-optimizer at "
            "0.weight: 4 of 6 trainable parameters are in no param group of the optimizer"
        ),
        "also 0.bias",
        "also 2.weight",
        "also 2.bias",
        "share of elements left out 0.891, normal 0",
        (
            "The optimizer was built from a part of the model, or before these parameters"
            " existed, so they keep their first values for ever."
        ),
        (
            "build the optimizer from model.parameters() once the model is complete, or "
            "freeze them on purpose with requires_grad_(False)"
        ),
    ]


def test_fires_on_layers_in_a_plain_list(judge, shown, classes):
    model = Hidden()

    (finding,) = judge(
        ParametersWithoutOptimizer(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT001 parameters-without-optimizer at tensors "
            "outside of the model: the loss depends on 2 tensors that need a gradient but"
            " are no parameters of the model, of shape (8, 8), (8,)"
        ),
        "hidden tensors 2, normal 0",
        (
            "Layers in a plain Python list, tuple or dictionary are not registered, so "
            "parameters(), to() and state_dict() do not see them and the optimizer cannot"
            " train them."
        ),
        (
            "keep layers in nn.ModuleList or nn.ModuleDict and tensors in nn.Parameter, "
            "then build the optimizer again"
        ),
    ]


def test_is_silent_on_frozen_layers(judge, classes):
    model = net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])

    assert (
        judge(ParametersWithoutOptimizer(), model, optimizer, nn.CrossEntropyLoss(), classes) == []
    )


def test_is_silent_on_two_optimizers_that_share_the_work(judge, classes):
    model = net()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.Adam([*model[2].parameters(), *model[4].parameters()])

    assert (
        judge(ParametersWithoutOptimizer(), model, [first, second], nn.CrossEntropyLoss(), classes)
        == []
    )


def test_is_silent_on_parameters_of_the_loss(judge, classes):
    model = net()

    assert (
        judge(
            ParametersWithoutOptimizer(),
            model,
            torch.optim.Adam(model.parameters()),
            Weighted(),
            classes,
        )
        == []
    )
