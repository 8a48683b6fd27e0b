import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt201_dead_units import DeadUnits

RULE = DeadUnits()
NAN = float("nan")


class SquaredReLU(nn.Module):
    pass


def run(make_history, dead, *, zeros=0.85, varies=0.8, activation=None, steps=60):
    return make_history(
        steps,
        modules={
            "activation.dead_fraction": {"1": dead},
            "activation.zero_fraction": {"1": zeros},
            "activation.variation": {"1": varies},
        },
        model=nn.Sequential(nn.Linear(4, 4), activation or nn.ReLU(), nn.Linear(4, 1)),
    )


def test_names_a_layer_with_many_dead_units(make_history):
    history = run(make_history, 0.75)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT201",
            name="dead-units",
            severity=Severity.WARNING,
            symptom=Symptom.DEAD_UNITS,
            site="1",
            step=20,
            what="75% of the units of this ReLU layer were zero on every input",
            evidence=(Evidence(name="share of dead units", value=0.75, normal="<= 0.6"),),
            cause="a ReLU that is below zero on every input passes no gradient: the "
            "learning rate was too high, biases or inputs are far from zero, or "
            "the initial weights do not fit",
            fix="lower the learning rate or warm up, initialise again "
            "(trimtab.init.he_), normalise the inputs, or use GELU or LeakyReLU "
            "in place of ReLU",
            remedy=Fix(action="replace_activation", args={"site": "1", "by": "GELU"}),
        )
    ]


def test_a_layer_that_is_all_dead_is_an_error(make_history):
    history = run(make_history, 1.0, zeros=1.0, varies=NAN)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT201",
            name="dead-units",
            severity=Severity.ERROR,
            symptom=Symptom.DEAD_UNITS,
            site="1",
            step=20,
            what="all units of this ReLU layer were zero on every input",
            evidence=(Evidence(name="share of dead units", value=1.0, normal="<= 0.6"),),
            cause="a ReLU that is below zero on every input passes no gradient, so "
            "neither this layer nor anything before it learns: the learning rate "
            "was too high, biases or inputs are far from zero, or the initial "
            "weights do not fit",
            fix="lower the learning rate or warm up, initialise again "
            "(trimtab.init.he_), normalise the inputs, or use GELU or LeakyReLU "
            "in place of ReLU",
            remedy=Fix(action="replace_activation", args={"site": "1", "by": "GELU"}),
        )
    ]


def test_knows_a_relu_of_another_make(make_history):
    history = run(make_history, 0.75, activation=SquaredReLU())

    assert [f.site for f in RULE.check(history)] == ["1"]


@pytest.mark.parametrize(
    "given",
    [
        {"dead": 0.5, "zeros": 0.9},  # narrow, and sparse
        {"dead": [0.9] * 3 + [0.4] * 4},  # for a while
        {"dead": 0.9, "zeros": 0.995},  # a sparse code: the living units fire on a twentieth
        {"dead": 0.75, "varies": 0.001},  # the living ones are constant too
        {"dead": 1.0, "activation": nn.Linear(4, 4)},  # a layer that starts at zero
        {"dead": NAN},
        {"dead": 0.75, "steps": 20},  # too early to tell
    ],
)
def test_is_silent_on_zeros_of_other_kinds(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("bias", "expected"), [(-20.0, ["TT201"]), (0.0, [])])
def test_tells_biases_far_below_zero(train, bias, expected):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.constant_(model[0].bias, bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_of(step):
        x = torch.randn(64, 8)
        return (model(x) - x[:, :1]).square().mean()

    assert [f.code for f in train(model, optimizer, loss_of, RULE)] == expected
