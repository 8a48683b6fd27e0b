"""Learning rates that the first weights do not stand."""

import torch
from torch import nn

import trimtab
from trimtab.preflight._curvature import Curvature
from trimtab.preflight.tt020_learning_rate_above_limit import LearningRateAboveLimit


def net(*, act=nn.ReLU, std=None, depth=2):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), act())]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for layer in model:
        if std is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return model


def test_fires_on_adam_above_the_weights(judge, shown, classes):
    model = net()

    (finding,) = judge(
        LearningRateAboveLimit(),
        model,
        torch.optim.Adam(model.parameters(), lr=1.0),
        nn.CrossEntropyLoss(),
        classes,
    )

    assert shown(finding) == [
        (
            "warning, divergence: TT020 learning-rate-above-limit: the learning rate of "
            "param group 0, 1, is above the typical weight, 0.15"
        ),
        "lr / RMS of the weights 6.48, normal <= 0.1",
        (
            "The learning rate is too high: one step of Adam moves every weight by about "
            "that much, and so replaces the weights."
        ),
        (
            "lower the learning rate to 0.1 or less to begin with, or reach it by warmup,"
            " and clip gradients"
        ),
    ]


def test_fires_on_a_trial_that_diverges(judge, shown, classes):
    model, (x, _y) = net(), classes

    (finding,) = judge(
        LearningRateAboveLimit(),
        model,
        torch.optim.SGD(model.parameters(), lr=5.0),
        nn.MSELoss(),
        (x, x[:, :3]),
    )

    assert shown(finding) == [
        (
            "warning, divergence: TT020 learning-rate-above-limit: within 7 steps at a "
            "learning rate of 5 the loss on one batch went from 0.85 to NaN or infinity"
        ),
        "rise of the loss without bound, normal <= 3",
        (
            "The learning rate is too high for the curvature at these weights: each step "
            "overshoots further than the one before."
        ),
        (
            "lower the learning rate to 0.5 or less to begin with, or reach it by warmup,"
            " and clip gradients"
        ),
    ]


def test_is_silent_on_usual_rates(judge, classes):
    model = net()

    assert (
        judge(
            LearningRateAboveLimit(),
            model,
            torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            nn.CrossEntropyLoss(),
            classes,
        )
        == []
    )


def test_is_silent_where_the_schedule_starts_low(judge, classes):
    model, (x, _y) = net(), classes
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    scheduler = trimtab.optim.warmup_cosine(optimizer, 1000, 2000)

    assert (
        judge(
            LearningRateAboveLimit(),
            model,
            optimizer,
            nn.MSELoss(),
            (x, x[:, :3]),
            scheduler=scheduler,
        )
        == []
    )


def test_is_silent_where_gradients_will_be_clipped(judge, classes):
    model, (x, _y) = net(), classes
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)

    assert (
        judge(LearningRateAboveLimit(), model, optimizer, nn.MSELoss(), (x, x[:, :3]), clip=0.01)
        == []
    )


def test_fires_on_a_curvature_that_forbids_it(make_subject, classes, shown):
    model = net()
    subject = make_subject(
        model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), classes
    )
    subject.curvature = Curvature(
        sharpness=200.0,
        preconditioned=False,
        largest_stable_lr=0.01,
        lr=0.1,
        peak_lr=0.1,
        warmup_steps=200,
        iterations=9,
    )

    (finding,) = LearningRateAboveLimit().check(subject)

    assert shown(finding) == [
        "warning, divergence: TT020 learning-rate-above-limit: the first learning rate 0.1 is 10 "
        "times the largest stable one, 0.01, that a sharpness of 200 allows",
        "lr / largest stable lr 10, normal <= 2",
        "The learning rate is too high for the curvature at these weights, so the loss rises until "
        "it is flatter, or for good; 200 steps of warmup would let the sharpness fall first.",
        "lower the learning rate to 0.01 or less to begin with, or reach it by warmup, and clip "
        "gradients",
    ]
