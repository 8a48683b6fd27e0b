import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt108_zero_gradient import ZeroGradient

RULE = ZeroGradient()
NAN = float("nan")


def run(make_history, first, second=0.5, steps=80):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    norms = {"0.weight": first, "0.bias": 0.0, "1.weight": second, "1.bias": 0.5}
    return make_history(steps, parameters={"gradient.norm": norms}, model=model)


def test_names_a_weight_whose_gradient_is_always_zero(make_history):
    history = run(make_history, 0.0)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT108",
            name="zero-gradient",
            severity=Severity.WARNING,
            symptom=Symptom.NO_LEARNING,
            site="0.weight",
            step=1,
            what="the gradients of 1 of 2 weight matrices were exactly zero in all 9 "
            "records; the last of them is 0.weight",
            evidence=(Evidence(name="largest gradient norm", value=0.0, normal="> 0"),),
            cause="every path from them to the loss leads through zeros: units that "
            "are all dead, weights that are all zero, a factor of 0, or a "
            "gradient that has rounded to zero",
            fix="initialise the weights at random (trimtab.init.auto_(model)), look "
            "for dead ReLUs, and for a loss term that is multiplied by 0",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
        )
    ]


@pytest.mark.parametrize(
    "first",
    [
        0.5,
        [0.0] + [0.5] * 8,  # behind a head that starts at zero
        [0.5] + [0.0] * 8,
        NAN,  # no gradient at all
        1e-30,
    ],
)
def test_is_silent_on_any_other_gradient(make_history, first):
    assert list(RULE.check(run(make_history, first))) == []


def test_waits_for_some_records(make_history):
    assert list(RULE.check(run(make_history, 0.0, steps=60))) == []


@pytest.mark.parametrize(("zeros", "expected"), [(True, ["TT108"]), (False, [])])
def test_tells_weights_that_are_all_zero(train, zeros, expected):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    for p in model.parameters() if zeros else [model[2].weight]:
        nn.init.zeros_(p)
    optimizer = torch.optim.Adam(model.parameters())

    def loss_of(step):
        x = torch.randn(16, 8)
        return (model(x) - x[:, :1]).square().mean()

    assert [f.code for f in train(model, optimizer, loss_of, RULE, steps=40)] == expected
