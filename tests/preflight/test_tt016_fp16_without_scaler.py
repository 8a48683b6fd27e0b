"""float16 without a loss scale."""

import torch
from torch import nn
from torch.nn import functional

from trimtab.preflight.tt016_fp16_without_scaler import Fp16WithoutScaler


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_without_a_scaler(judge, shown, classes):
    model = net()

    (finding,) = judge(
        Fp16WithoutScaler(),
        model,
        torch.optim.Adam(model.parameters()),
        lambda o, y: 1e-6 * functional.cross_entropy(o, y),
        classes,
        precision="fp16",
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT016 fp16-without-scaler: the forward pass is"
            " to run in fp16 without a loss scaler"
        ),
        "gradient elements that fp16 makes zero 0, normal 0",
        (
            "Without loss scaling small gradients underflow to zero in float16, which "
            "holds nothing below 6e-8."
        ),
        'pass a torch.amp.GradScaler and step through it, or use precision="bf16"',
    ]


def test_fires_on_a_scaler_that_is_off(judge, shown, classes):
    model = net()

    (finding,) = judge(
        Fp16WithoutScaler(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
        precision="fp16",
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT016 fp16-without-scaler: the forward pass is"
            " to run in fp16 without a loss scaler"
        ),
        "gradient elements that fp16 makes zero 0, normal 0",
        (
            "Without loss scaling small gradients underflow to zero in float16, which "
            "holds nothing below 6e-8."
        ),
        'pass a torch.amp.GradScaler and step through it, or use precision="bf16"',
    ]


def test_fires_on_weights_in_float16(judge, shown, classes):
    model, (x, y) = net().half(), classes

    (finding,) = judge(
        Fp16WithoutScaler(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        (x.half(), y),
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT016 fp16-without-scaler at 0.weight: 6 "
            "trainable parameters are float16 themselves"
        ),
        "also 0.bias",
        "also 2.weight",
        "also 2.bias",
        "also 4.weight",
        "also 4.bias",
        "dtype float16, normal float32",
        (
            "Updates below a thousandth of a weight round to nothing, Adam's epsilon of "
            "1e-8 becomes zero, and a GradScaler refuses such gradients."
        ),
        "keep the parameters in float32 and run the forward pass under torch.autocast",
    ]


def test_is_silent_with_a_scaler(judge, classes):
    model = net()

    assert (
        judge(
            Fp16WithoutScaler(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
            precision="fp16",
            scaler=torch.amp.GradScaler("cpu"),
        )
        == []
    )


def test_is_silent_in_bf16(judge, classes):
    model = net()

    assert (
        judge(
            Fp16WithoutScaler(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
            precision="bf16",
        )
        == []
    )
