"""Modules in eval mode as training begins."""

import torch
from torch import nn

from trimtab.preflight.tt013_wrong_mode import WrongMode


def net():
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3)
    )


def test_fires_on_a_model_in_eval_mode(judge, shown, classes):
    model = net().eval()

    (finding,) = judge(
        WrongMode(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT013 wrong-mode at 1: the model is in eval "
            "mode, with dropout or BatchNorm in 2 places"
        ),
        "also 3",
        "modules in eval mode 2, normal 0",
        (
            "Dropout does nothing in eval mode and BatchNorm uses its stored statistics; "
            "model.eval() was called, or the model was loaded in eval mode."
        ),
        "call model.train() before the training loop and after each validation",
    ]


def test_advises_on_batchnorm_alone(judge, shown, classes):
    model = net()
    model[1].eval()

    (finding,) = judge(
        WrongMode(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
    )

    assert shown(finding) == [
        (
            "advice, silent_config_error: TT013 wrong-mode at 1: 1 modules are in eval "
            "mode, with dropout or BatchNorm in 1 places"
        ),
        "modules in eval mode 1, normal 0",
        (
            "Dropout does nothing in eval mode and BatchNorm uses its stored statistics; "
            "for BatchNorm that is usual in fine-tuning, and may be meant."
        ),
        "call model.train() before the training loop and after each validation",
    ]


def test_is_silent_in_training_mode(judge, classes):
    model = net()

    assert (
        judge(
            WrongMode(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
        )
        == []
    )


def test_is_silent_where_the_mode_does_nothing(judge, classes):
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)).eval()

    assert (
        judge(
            WrongMode(), model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), classes
        )
        == []
    )


def test_is_silent_on_frozen_batchnorm(judge, classes):
    model = net()
    model[1].eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model[4].parameters())

    assert judge(WrongMode(), model, optimizer, nn.CrossEntropyLoss(), classes) == []
