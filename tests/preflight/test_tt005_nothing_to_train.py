"""A loss from which no gradient comes."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight.tt005_nothing_to_train import NothingToTrain


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_a_graph_that_is_cut(judge, shown, classes):
    model = net()

    (finding,) = judge(
        NothingToTrain(),
        model,
        torch.optim.Adam(model.parameters()),
        lambda o, y: functional.cross_entropy(o.detach(), y),
        classes,
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT005 nothing-to-train: no gradient of the loss reaches "
            "any of 6 trainable parameters"
        ),
        "trainable parameters 6, normal >= 1",
        "reached 0, normal >= 1",
        (
            "The graph is cut between the model and the loss: by detach(), .data, "
            ".item(), argmax, NumPy, torch.no_grad() or a tensor made anew from values."
        ),
        (
            "compute the loss from the model's output itself with differentiable "
            "operations, outside of torch.no_grad()"
        ),
    ]


def test_fires_on_argmax_in_the_loss(judge, shown, classes):
    model = net()

    (finding,) = judge(
        NothingToTrain(),
        model,
        torch.optim.Adam(model.parameters()),
        lambda o, y: functional.mse_loss(o.argmax(1).float(), y.float()),
        classes,
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT005 nothing-to-train: no gradient of the loss reaches "
            "any of 6 trainable parameters"
        ),
        "trainable parameters 6, normal >= 1",
        "reached 0, normal >= 1",
        (
            "The graph is cut between the model and the loss: by detach(), .data, "
            ".item(), argmax, NumPy, torch.no_grad() or a tensor made anew from values."
        ),
        (
            "compute the loss from the model's output itself with differentiable "
            "operations, outside of torch.no_grad()"
        ),
    ]


def test_fires_on_a_model_that_is_frozen(judge, shown, classes):
    model = net().requires_grad_(False)

    (finding,) = judge(NothingToTrain(), model, None, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "error, no_learning: TT005 nothing-to-train: none of the model's 6 parameters"
            " requires a gradient"
        ),
        "trainable parameters 0, normal >= 1",
        (
            "All of them are frozen (requires_grad is False), or layers are kept where "
            "the model does not register them, such as a plain Python list."
        ),
        ("call requires_grad_(True) on what shall be trained, and keep layers in nn.ModuleList"),
    ]


def test_is_silent_where_one_layer_learns(judge, classes):
    model = net().requires_grad_(False)
    model[4].requires_grad_(True)

    assert (
        judge(
            NothingToTrain(),
            model,
            torch.optim.Adam(model[4].parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )
