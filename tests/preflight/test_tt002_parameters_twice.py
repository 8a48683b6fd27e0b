"""Parameters that are in the optimizer more than once."""

import torch
from torch import nn

from trimtab.preflight.tt002_parameters_twice import ParametersTwice


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_two_optimizers_of_one_weight(judge, shown, classes):
    model = net()
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    second = torch.optim.SGD([model[0].weight], lr=0.1)

    (finding,) = judge(ParametersTwice(), model, [first, second], nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT002 parameters-twice at 0.weight: 1 "
            "parameters are in the optimizer more than once"
        ),
        "times in param groups 2, normal 1",
        (
            "Every step moves them as often as they are listed, which multiplies their "
            "learning rate and weight decay."
        ),
        (
            "build the param groups from model.parameters(), which yields shared weights "
            "once, and give each parameter to one optimizer only"
        ),
    ]


def test_is_silent_on_tied_weights_listed_once(judge, classes):
    model = net()
    model[2].weight = nn.Parameter(model[2].weight.detach())
    model.append(nn.Identity())

    assert (
        judge(
            ParametersTwice(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )
