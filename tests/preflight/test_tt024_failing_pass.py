"""Passes that raise."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight.tt024_failing_pass import FailingPass


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_shapes_that_do_not_fit(judge, shown, classes):
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(17, 3))

    (finding,) = judge(
        FailingPass(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT024 failing-pass at after 0: RuntimeError: mat1 and "
            "mat2 shapes cannot be multiplied (32x16 and 17x3)"
        ),
        "modules that ran 1, normal all",
        "Two shapes do not match: of a layer and its input, or of output and target.",
        "run one batch by hand and follow the traceback",
    ]


def test_fires_on_a_token_out_of_range(judge, shown, classes):
    model, (_x, y) = nn.Sequential(nn.Embedding(5, 3)), classes

    (finding,) = judge(
        FailingPass(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (y + 5, y),
    )

    assert shown(finding) == [
        ("error, no_learning: TT024 failing-pass: IndexError: index out of range in self"),
        "modules that ran 0, normal all",
        "An embedding was asked for a token beyond its size: a token is out of range.",
        "run one batch by hand and follow the traceback",
    ]


def test_fires_on_a_loss_that_is_a_number(judge, shown, classes):
    model = net()

    (finding,) = judge(
        FailingPass(),
        model,
        torch.optim.Adam(model.parameters()),
        lambda o, y: functional.cross_entropy(o, y).item(),
        classes,
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT024 failing-pass at after 4: ConfigError: The loss is "
            "a float, not a tensor, so nothing can be learnt from it. Return the tensor "
            "itself, without .item() or float()."
        ),
        "modules that ran 5, normal all",
        "The forward or backward pass cannot run on this batch as it is.",
        "run one batch by hand and follow the traceback",
    ]


def test_is_silent_on_a_pass_that_works(judge, classes):
    model = net()

    assert (
        judge(
            FailingPass(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )
