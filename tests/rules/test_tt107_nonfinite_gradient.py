import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt107_nonfinite_gradient import NonfiniteGradient

RULE = NonfiniteGradient()
NAN, INF = float("nan"), float("inf")


def run(make_history, total, first=1.0, second=1.0, *, scale=1.0, loss=1.0, steps=4):
    """A run of two layers, each step of which is recorded."""
    share = [0.0] * steps
    return make_history(
        steps,
        {"gradient.norm": total, "loss_scale": scale, "loss": loss},
        every=1,
        parameters={
            "gradient.norm": {"0.weight": first, "1.weight": second},
            "gradient.nonfinite_fraction": {"0.weight": share, "1.weight": share},
        },
        model=nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)),
        order=["0", "1"],
    )


def test_names_the_last_parameter_with_a_bad_gradient(make_history):
    history = run(make_history, [1.0, NAN, NAN, 1.0], first=[1.0, NAN, NAN, 1.0])

    assert list(RULE.check(history)) == [
        Finding(
            code="TT107",
            name="nonfinite-gradient",
            severity=Severity.ERROR,
            symptom=Symptom.NAN,
            site="0.weight",
            step=2,
            what="the gradient from 0.weight on towards the input was NaN or infinite "
            "in step 2, and in 2 steps so far",
            evidence=(Evidence(name="steps with a gradient not finite", value=2.0, normal="0"),),
            cause="the parameters after it in the forward pass have sound gradients, "
            "so the operations between them and this one have an infinite slope "
            "(sqrt or log at 0, a division by 0), or overflow",
            fix="clamp the arguments of log, sqrt, exp and divisions, look for NaN "
            "in the inputs, and lower the learning rate if activations had grown "
            "before; torch.autograd.set_detect_anomaly(True) names the operation",
            remedy=Fix(action="detect_anomaly"),
        )
    ]


def test_blames_the_loss_where_all_gradients_are_bad(make_history):
    bad = [1.0, 1.0, NAN, 1.0]

    history = run(make_history, bad, first=bad, second=bad)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT107",
            name="nonfinite-gradient",
            severity=Severity.ERROR,
            symptom=Symptom.NAN,
            step=3,
            what="the gradient was NaN or infinite in step 3",
            evidence=(Evidence(name="steps with a gradient not finite", value=1.0, normal="0"),),
            cause="all gradients are NaN or infinite, so they became so in the loss or "
            "before it: log or sqrt of 0, a division by 0, exp of a large "
            "number, or inputs that are NaN",
            fix="clamp the arguments of log, sqrt, exp and divisions, look for NaN "
            "in the inputs, and lower the learning rate if activations had grown "
            "before; torch.autograd.set_detect_anomaly(True) names the operation",
            remedy=Fix(action="detect_anomaly"),
        )
    ]


def test_waits_one_step_for_a_record(make_history):
    def unrecorded(steps):
        return make_history(steps, {"gradient.norm": [1.0] * 3 + [NAN] * (steps - 3)})

    assert list(RULE.check(unrecorded(4))) == []
    assert [f.step for f in RULE.check(unrecorded(6))] == [4]


def test_is_silent_on_finite_gradients(make_history):
    assert list(RULE.check(run(make_history, 1.0))) == []


def test_is_silent_on_overflows_that_find_the_loss_scale(make_history):
    history = run(make_history, [INF, INF, 1.0, INF, 1.0, 1.0], scale=65536.0, steps=6)

    assert list(RULE.check(history)) == []


def test_names_overflows_without_end(make_history):
    history = run(make_history, INF, INF, INF, scale=[2.0**-i for i in range(30)], steps=30)

    assert [f.step for f in RULE.check(history)] == [1]


@pytest.mark.parametrize(("guard", "expected"), [(0.0, [("TT107", "0.bias")]), (1e-6, [])])
def test_finds_the_layer_before_a_root_of_zero(train, guard, expected):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_of(step):
        hidden = model[:2](torch.randn(32, 8))
        distance = ((hidden - hidden.detach()).square().sum(1) + guard).sqrt()
        return model[2](hidden).square().mean() + distance.mean()

    found = train(model, optimizer, loss_of, RULE, steps=6)

    assert [(f.code, f.site) for f in found] == expected
