"""Tensors in the optimizer that are not the model's."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight.tt003_stale_parameters import StaleParameters


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_a_layer_that_was_replaced(judge, shown, classes):
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    model[4] = nn.Linear(16, 3)

    (finding,) = judge(StaleParameters(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "error, silent_config_error: TT003 stale-parameters at 4.weight: the "
            "optimizer holds 2 tensors that are not the model's"
        ),
        "also 4.bias",
        "tensors of no model 2, normal 0",
        "parameters that no group holds 2, normal 0",
        (
            "The model was replaced, copied or partly rebuilt after the optimizer was "
            "created, so its steps move stale tensors and leave the model as it is."
        ),
        (
            "build the optimizer from model.parameters() after the model is final (moved,"
            " wrapped, tied, layers replaced)"
        ),
    ]


def test_fires_on_the_optimizer_of_a_copy(judge, shown, classes):
    model = net()
    optimizer = torch.optim.Adam(net().parameters())

    (finding,) = judge(StaleParameters(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "error, silent_config_error: TT003 stale-parameters at 0.weight: the "
            "optimizer holds no parameter of this model at all"
        ),
        "also 0.bias",
        "also 2.weight",
        "also 2.bias",
        "also 4.weight",
        "also 4.bias",
        "tensors of no model 6, normal 0",
        "parameters that no group holds 6, normal 0",
        (
            "The model was replaced, copied or partly rebuilt after the optimizer was "
            "created, so its steps move stale tensors and leave the model as it is."
        ),
        (
            "build the optimizer from model.parameters() after the model is final (moved,"
            " wrapped, tied, layers replaced)"
        ),
    ]


def test_advises_on_tensors_that_may_be_another_models(judge, shown, classes):
    model, other = net(), nn.Linear(5, 5)
    optimizer = torch.optim.Adam([*model.parameters(), other.weight])

    (finding,) = judge(StaleParameters(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT003 stale-parameters: the optimizer holds 1 "
            "tensors that are not the model's"
        ),
        "tensors of no model 1, normal 0",
        "parameters that no group holds 0, normal 0",
        "They may belong to another model that is trained beside this one.",
        (
            "build the optimizer from model.parameters() after the model is final (moved,"
            " wrapped, tied, layers replaced)"
        ),
    ]


def test_is_silent_on_a_second_model_that_the_loss_needs(judge, classes):
    model, other = net(), nn.Linear(3, 3)
    optimizer = torch.optim.Adam([*model.parameters(), *other.parameters()])

    assert (
        judge(
            StaleParameters(),
            model,
            optimizer,
            lambda o, y: functional.cross_entropy(other(o), y),
            classes,
        )
        == []
    )
