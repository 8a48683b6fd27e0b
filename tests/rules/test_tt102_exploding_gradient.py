import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt102_exploding_gradient import ExplodingGradient

RULE = ExplodingGradient()


def run(make_history, norms, *, loss=2.0, weight=10.0, steps=20):
    values = {"gradient.norm": norms, "weight.norm": weight, "loss": loss}
    each = {"gradient.norm": {"a": 1.0, "b": 2.0}}
    return make_history(steps, values, parameters=each)


def test_names_gradients_that_are_too_large_from_the_start(make_history):
    history = run(make_history, 3000.0, loss=50.0)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT102",
            name="exploding-gradient",
            severity=Severity.ERROR,
            symptom=Symptom.EXPLODING_GRADIENT,
            site="b",
            step=1,
            what="the gradient norm is 3e+03, 300 times that of the weights, and one "
            "step along it would change the loss by 600 times itself",
            evidence=(
                Evidence(name="gradient norm over weight norm", value=300.0, normal="<= 10"),
            ),
            cause="the gradient is a product over the layers, and most of them "
            "multiply it by more than 1: the initial weights are too large, or "
            "residual branches add up without a norm",
            fix="initialise with trimtab.init.auto_(model), add norm layers or scale residual "
            "branches by depth, and clip gradients by their global norm "
            "(trimtab.attach(..., clip=1.0))",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
        )
    ]


def test_names_gradients_that_grow(make_history):
    norms = [1.0] * 15 + [3.0, 50.0, 900.0, 2e4, 5e5]
    history = run(make_history, norms, loss=1e9)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT102",
            name="exploding-gradient",
            severity=Severity.ERROR,
            symptom=Symptom.EXPLODING_GRADIENT,
            site="b",
            step=19,
            what="the gradient norm has grown from 1 to 2e+04, 2e+03 times that of the weights",
            evidence=(
                Evidence(name="gradient norm over weight norm", value=2000.0, normal="<= 10"),
            ),
            cause="each step makes the next gradient larger: the learning rate is too "
            "high for the curvature, and nothing clips the gradient",
            fix="divide the learning rate by 10, warm up, and clip gradients by their global norm "
            "(trimtab.attach(..., clip=1.0))",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.1}),
        )
    ]


def test_counts_one_before_a_value_that_is_not_finite(make_history):
    history = run(make_history, [3000.0] + [float("nan")] * 19, loss=[50.0] + [float("nan")] * 19)

    assert [f.step for f in RULE.check(history)] == [1]


def test_counts_one_that_throws_the_weights_away(make_history):
    norms, weight = [3000.0] + [0.1] * 19, [10.0] + [500.0] * 19

    assert [f.step for f in RULE.check(run(make_history, norms, weight=weight))] == [1]


@pytest.mark.parametrize(
    ("norms", "loss"),
    [
        (1.0, 2.0),
        (3000.0, 7000.0),  # large targets: loss and gradient have their scale
        ([3000.0] + [1.0] * 19, 2.0),  # one that did no harm
        ([0.0] + [5.0] * 19, 2.0),  # a zero-initialised head
        ([1.0] * 10 + [float("inf")] + [1.0] * 9, 2.0),  # a step that was skipped
        ([1e-9] * 10 + [1.0] * 10, 2.0),  # growth from nothing to something
    ],
)
def test_is_silent_on_sound_gradients(make_history, norms, loss):
    assert list(RULE.check(run(make_history, norms, loss=loss))) == []


@pytest.mark.parametrize(("std", "expected"), [(1.0, ["TT102"]), (0.25, [])])
def test_tells_weights_too_large_from_those_that_fit(train, std, expected):
    layers = [layer for _ in range(8) for layer in (nn.Linear(32, 32), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    for p in model.parameters():
        nn.init.normal_(p, std=std if p.ndim == 2 else 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def loss_of(step):
        x = torch.randn(32, 32)
        return nn.functional.cross_entropy(model(x), x[:, :10].argmax(1))

    found = train(model, optimizer, loss_of, RULE, steps=12)

    assert sorted({f.code for f in found}) == expected
