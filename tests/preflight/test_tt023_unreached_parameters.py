"""Layers that get no gradient."""

import torch
from torch import nn

from trimtab.findings import Severity
from trimtab.preflight.tt023_unreached_parameters import UnreachedParameters


class Net(nn.Module):
    def __init__(self, *, cut):
        super().__init__()
        self.first, self.head, self.spare = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(8, 3)
        self.cut = cut

    def forward(self, x):
        x = self.first(x).relu()
        return self.head(x.detach() if self.cut else x)


def without_spare(*, cut):
    model = Net(cut=cut)
    del model.spare
    return model


def test_fires_on_detach_in_the_middle(judge, shown, classes):
    model = without_spare(cut=True)

    (finding,) = judge(
        UnreachedParameters(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, no_learning: TT023 unreached-parameters at first.weight: 2 of 4 "
            "trainable parameters get no gradient, though the forward pass uses them "
            "before others that do"
        ),
        "also first.bias",
        "parameters without a gradient 2, normal 0",
        (
            "The graph is cut behind them: by detach(), .data, torch.no_grad(), argmax, "
            "rounding or NumPy in the forward pass."
        ),
        (
            "take the detach() or no_grad() out of the forward pass, or freeze these "
            "parameters with requires_grad_(False)"
        ),
    ]


def test_advises_on_a_module_that_is_not_called(judge, shown, classes):
    model = Net(cut=False)

    (finding,) = judge(
        UnreachedParameters(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "advice, no_learning: TT023 unreached-parameters at spare.weight: 2 of 6 "
            "trainable parameters get no gradient"
        ),
        "also spare.bias",
        "parameters without a gradient 2, normal 0",
        ("Their modules were not called on this batch, or the loss does not use what they return."),
        "if that is meant, freeze them with requires_grad_(False)",
    ]


def test_is_silent_where_all_are_reached(judge, classes):
    model = without_spare(cut=False)

    assert (
        judge(
            UnreachedParameters(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_on_frozen_layers(judge, classes):
    model = without_spare(cut=True)
    model.first.requires_grad_(False)

    assert (
        judge(
            UnreachedParameters(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


class Unrecorded(nn.Module):
    """Its first layer works under `no_grad`."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        with torch.no_grad():
            x = self.first(x).relu()
        return self.head(x)


def test_fires_on_a_layer_to_be_trained_that_is_called_without_recording(judge, classes):
    model = Unrecorded()
    optimizer = torch.optim.Adam(model.parameters())

    (finding,) = judge(UnreachedParameters(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert finding.severity is Severity.WARNING
    assert (finding.site, finding.also) == ("first.weight", ("first.bias",))


def test_advises_on_one_that_no_optimizer_holds(judge, classes):
    model = Unrecorded()
    optimizer = torch.optim.Adam(model.head.parameters())

    (finding,) = judge(UnreachedParameters(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert finding.severity is Severity.ADVICE
