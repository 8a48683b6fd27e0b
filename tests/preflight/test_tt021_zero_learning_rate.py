"""Learning rates with which nothing can be learnt."""

import torch
from torch import nn

import trimtab
from trimtab.preflight.tt021_zero_learning_rate import ZeroLearningRate


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_zero(judge, shown, classes):
    model = net()

    (finding,) = judge(
        ZeroLearningRate(),
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT021 zero-learning-rate at param group 0: the learning "
            "rate is 0 for the next 1000 steps"
        ),
        "steps that can learn 0, normal >= 10",
        (
            "With a learning rate of zero no step changes a weight. The scheduler's "
            "factor is 0, it was built for fewer steps, or the rate was never set."
        ),
        "set a learning rate above 0 and give the scheduler the true number of steps",
    ]


def test_fires_on_nan(judge, shown, classes):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = float("nan")

    (finding,) = judge(ZeroLearningRate(), model, optimizer, nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        ("error, no_learning: TT021 zero-learning-rate at param group 0: the learning rate is nan"),
        "learning rate nan, normal > 0, finite",
        (
            "A negative learning rate climbs the loss, and NaN or infinity destroys the "
            "weights in one step."
        ),
        "set a finite learning rate above 0",
    ]


def test_fires_on_a_schedule_of_zeros(judge, shown, classes):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step // 10_000)

    (finding,) = judge(
        ZeroLearningRate(), model, optimizer, nn.CrossEntropyLoss(), classes, scheduler=scheduler
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT021 zero-learning-rate at param group 0: the learning "
            "rate is 0 for the next 1000 steps"
        ),
        "steps that can learn 0, normal >= 10",
        (
            "With a learning rate of zero no step changes a weight. The scheduler's "
            "factor is 0, it was built for fewer steps, or the rate was never set."
        ),
        "set a learning rate above 0 and give the scheduler the true number of steps",
    ]


def test_fires_on_a_schedule_that_dies_at_once(judge, shown, classes):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1e-4)

    (finding,) = judge(
        ZeroLearningRate(), model, optimizer, nn.CrossEntropyLoss(), classes, scheduler=scheduler
    )

    assert shown(finding) == [
        (
            "error, no_learning: TT021 zero-learning-rate at param group 0: the learning "
            "rate has died after 2 of 1000 steps"
        ),
        "steps that can learn 2, normal >= 10",
        (
            "With a learning rate of zero no step changes a weight. The scheduler's "
            "factor is 0, it was built for fewer steps, or the rate was never set."
        ),
        "set a learning rate above 0 and give the scheduler the true number of steps",
    ]


def test_fires_on_a_second_optimizer(judge, shown, classes):
    model = net()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.SGD(model[2:].parameters(), lr=0.0)

    (finding,) = judge(ZeroLearningRate(), model, [first, second], nn.CrossEntropyLoss(), classes)

    assert shown(finding) == [
        ("error, no_learning: TT021 zero-learning-rate at param group 0: the learning rate is 0"),
        "steps that can learn 0, normal >= 10",
        (
            "With a learning rate of zero no step changes a weight. The scheduler's "
            "factor is 0, it was built for fewer steps, or the rate was never set."
        ),
        "set a learning rate above 0 and give the scheduler the true number of steps",
    ]


def test_is_silent_on_warmup_from_zero(judge, classes):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = trimtab.optim.warmup_cosine(optimizer, 100, 1000)

    assert (
        judge(
            ZeroLearningRate(),
            model,
            optimizer,
            nn.CrossEntropyLoss(),
            classes,
            scheduler=scheduler,
        )
        == []
    )


def test_is_silent_on_a_schedule_meant_for_epochs(judge, classes):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    assert (
        judge(
            ZeroLearningRate(),
            model,
            optimizer,
            nn.CrossEntropyLoss(),
            classes,
            scheduler=scheduler,
        )
        == []
    )
