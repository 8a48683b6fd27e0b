"""Weight decay on norms and biases."""

import torch
from torch import nn

import trimtab
from trimtab.preflight.tt004_decay_on_norms import DecayOnNorms


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))


def test_fires_on_strong_decoupled_decay(judge, shown, classes):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)

    (finding,) = judge(DecayOnNorms(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT004 decay-on-norms at 0.bias: weight decay "
            "0.1 of param group 0 acts on 4 norm weights and biases"
        ),
        "also 1.weight",
        "also 1.bias",
        "also 3.bias",
        "weight decay 0.1, normal 0 for norms and biases",
        (
            "It pulls norm weights and biases towards zero, and with them the signal, and"
            " regularises nothing."
        ),
        (
            "build the optimizer from trimtab.optim.param_groups(model, "
            "weight_decay=0.1), which leaves norms and biases out"
        ),
    ]


def test_fires_on_coupled_decay_in_adam(judge, shown, classes):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.01)

    (finding,) = judge(DecayOnNorms(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT004 decay-on-norms at 0.bias: weight decay "
            "0.01 of param group 0 acts on 4 norm weights and biases"
        ),
        "also 1.weight",
        "also 1.bias",
        "also 3.bias",
        "weight decay 0.01, normal 0 for norms and biases",
        (
            "It pulls norm weights and biases towards zero, and with them the signal, and"
            " regularises nothing."
        ),
        (
            "build the optimizer from trimtab.optim.param_groups(model, "
            "weight_decay=0.01), which leaves norms and biases out"
        ),
    ]


def test_advises_on_the_default_of_adamw(judge, shown, classes):
    model = net()

    (finding,) = judge(
        DecayOnNorms(), model, torch.optim.AdamW(model.parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT004 decay-on-norms at 0.bias: weight decay "
            "0.01 of param group 0 acts on 4 norm weights and biases"
        ),
        "also 1.weight",
        "also 1.bias",
        "also 3.bias",
        "weight decay 0.01, normal 0 for norms and biases",
        (
            "It pulls norm weights and biases towards zero, and with them the signal, and"
            " regularises nothing."
        ),
        (
            "build the optimizer from trimtab.optim.param_groups(model, "
            "weight_decay=0.01), which leaves norms and biases out"
        ),
    ]


def test_advises_on_the_usual_decay_of_sgd(judge, shown, classes):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-4)

    (finding,) = judge(DecayOnNorms(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT004 decay-on-norms at 0.bias: weight decay "
            "0.0005 of param group 0 acts on 4 norm weights and biases"
        ),
        "also 1.weight",
        "also 1.bias",
        "also 3.bias",
        "weight decay 0.0005, normal 0 for norms and biases",
        (
            "It pulls norm weights and biases towards zero, and with them the signal, and"
            " regularises nothing."
        ),
        (
            "build the optimizer from trimtab.optim.param_groups(model, "
            "weight_decay=0.0005), which leaves norms and biases out"
        ),
    ]


def test_is_silent_on_split_param_groups(judge, classes):
    model = net()
    optimizer = torch.optim.AdamW(trimtab.optim.param_groups(model, 0.1))

    assert judge(DecayOnNorms(), model, optimizer, nn.CrossEntropyLoss(), classes) == []


def test_is_silent_without_decay(judge, classes):
    model = net()

    assert (
        judge(
            DecayOnNorms(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )
