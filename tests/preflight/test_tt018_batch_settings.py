"""Batch settings that do not multiply out."""

import torch
from torch import nn

from trimtab.preflight.tt018_batch_settings import BatchSettings


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_a_wrong_product(judge, shown, classes):
    model = net()

    (finding,) = judge(
        BatchSettings(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
        accumulate=3,
        global_batch=128,
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT018 batch-settings: micro-batch 32 x "
            "accumulation 3 x 1 process = 96 examples a step, but the global batch is 128"
        ),
        "examples a step 96, normal 128",
        (
            "The settings do not multiply out, so the learning rate meets another batch "
            "size than the one that it was chosen for."
        ),
        "set accumulate=4",
    ]


def test_fires_on_a_batch_that_nothing_divides(judge, shown, classes):
    model = net()

    (finding,) = judge(
        BatchSettings(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
        micro_batch=24,
        world_size=4,
        global_batch=100,
    )

    assert shown(finding) == [
        (
            "error, silent_config_error: TT018 batch-settings: micro-batch 24 x "
            "accumulation 1 x 4 processes = 96 examples a step, but the global batch is "
            "100"
        ),
        "examples a step 96, normal 100",
        (
            "The settings do not multiply out, so the learning rate meets another batch "
            "size than the one that it was chosen for."
        ),
        "choose a micro-batch that divides 100 by 4 processes",
    ]


def test_fires_on_more_examples_than_there_are(judge, shown, classes):
    model = net()

    (finding,) = judge(
        BatchSettings(),
        model,
        torch.optim.Adam(model.parameters()),
        nn.CrossEntropyLoss(),
        classes,
        accumulate=4,
        dataset_size=100,
    )

    assert shown(finding) == [
        (
            "warning, silent_config_error: TT018 batch-settings: micro-batch 32 x "
            "accumulation 4 x 1 process = 128 examples a step, but the data has 100"
        ),
        "examples a step 128, normal <= 100",
        ("No epoch holds a whole step: accumulation runs across epochs, or the step never comes."),
        "lower the batch or the accumulation",
    ]


def test_is_silent_on_a_right_product(judge, classes):
    model = net()

    assert (
        judge(
            BatchSettings(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
            accumulate=2,
            world_size=2,
            global_batch=128,
            dataset_size=1000,
        )
        == []
    )


def test_is_silent_without_a_plan(judge, classes):
    model = net()

    assert (
        judge(
            BatchSettings(),
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            classes,
            accumulate=7,
        )
        == []
    )
