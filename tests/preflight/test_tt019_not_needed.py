"""Runs that need no stabiliser."""

import torch
from torch import nn

from trimtab.preflight.tt019_not_needed import NotNeeded


def wide():
    return nn.Sequential(nn.Linear(8, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.Linear(1000, 3))


def test_advises_on_small_networks(judge, shown, classes):
    model = nn.Linear(8, 3)

    (finding,) = judge(
        NotNeeded(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT019 not-needed: stabilisers are hardly needed"
            " here: the model has 27 trainable parameters"
        ),
        "trainable elements 27, normal >= 1,000,000",
        (
            "Networks under a million parameters rarely become unstable, and a wrong "
            "setting shows within seconds."
        ),
        ("leave them out if you like; if training fails, look at data, labels and the loss"),
    ]


def test_advises_on_a_frozen_backbone(judge, shown, classes):
    model = wide()
    model[:3].requires_grad_(False)

    (finding,) = judge(
        NotNeeded(), model, torch.optim.Adam(model[3].parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT019 not-needed: stabilisers are hardly needed"
            " here: 100% of the model is frozen"
        ),
        "frozen share 0.997, normal < 0.9",
        (
            "A small head on a frozen backbone is a nearly convex problem; a plain "
            "optimizer with a constant learning rate does."
        ),
        ("leave them out if you like; if training fails, look at data, labels and the loss"),
    ]


def test_advises_on_second_order_methods(judge, shown, classes):
    model = wide()

    (finding,) = judge(
        NotNeeded(), model, torch.optim.LBFGS(model.parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT019 not-needed: stabilisers are hardly needed"
            " here: LBFGS is a second-order method with safeguards of its own"
        ),
        "optimizer LBFGS, normal first order",
        (
            "Its line search, trust region or damping assumes the true gradient; clipping"
            " and skipping take that away."
        ),
        ("leave them out if you like; if training fails, look at data, labels and the loss"),
    ]


def test_advises_on_meta_learning(judge, shown, classes):
    model = wide()
    optimizer = torch.optim.Adam(model.parameters(), differentiable=True)

    (finding,) = judge(NotNeeded(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT019 not-needed: stabilisers are hardly needed"
            " here: Adam is differentiable, as in the inner loop of meta-learning"
        ),
        "differentiable True, normal False",
        ("Clipping and skipping in place cut the graph of the update; stabilise the outer loop."),
        ("leave them out if you like; if training fails, look at data, labels and the loss"),
    ]


def test_advises_on_inference(judge, shown, classes):
    model = wide().requires_grad_(False)

    (finding,) = judge(NotNeeded(), model, None, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT019 not-needed: stabilisers are hardly needed"
            " here: nothing is trained: the model only runs inference"
        ),
        "trainable elements 0, normal > 0",
        "Stabilisers act on training alone.",
        ("leave them out if you like; if training fails, look at data, labels and the loss"),
    ]


def test_is_silent_on_a_large_network(judge, classes):
    model = wide()

    assert (
        judge(
            NotNeeded(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
        )
        == []
    )
