import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt202_saturated_units import SaturatedUnits

RULE = SaturatedUnits()


def run(make_history, share, *, model=None, order=("0", "1", "2"), steps=60):
    model = model or nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    modules = {"activation.saturation": {"1": share}}
    return make_history(steps, modules=modules, model=model, order=order)


def test_names_a_hidden_activation_at_its_bounds(make_history):
    history = run(make_history, 0.9)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT202",
            name="saturated-units",
            severity=Severity.WARNING,
            symptom=Symptom.SATURATED_UNITS,
            site="1",
            step=1,
            what="90% of the outputs of this Tanh are at its bounds",
            evidence=(Evidence(name="share of saturated outputs", value=0.9, normal="<= 0.7"),),
            cause="its inputs are far outside of the range where it has a slope: "
            "initial weights too large, inputs not normalised, or a learning "
            "rate that is too high; saturated units pass hardly any gradient back",
            fix="initialise again (trimtab.init.xavier_), normalise the inputs, put "
            "a norm layer before the activation, or lower the learning rate",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"share": 0.6},
        {"share": [0.9] * 3 + [0.5] * 4},  # for a while
        {"share": 0.9, "steps": 20},
        {"share": 0.95, "model": nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), "order": "01"},
    ],
)
def test_is_silent_on_sound_activations_and_on_outputs(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("std", "expected"), [(1.0, ["TT202"]), (0.125, [])])
def test_tells_weights_too_large_from_those_that_fit(train, std, expected):
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
    nn.init.normal_(model[0].weight, std=std)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_of(step):
        x = torch.randn(64, 64)
        return (model(x) - x[:, :1]).square().mean()

    assert [f.code for f in train(model, optimizer, loss_of, RULE, steps=90)] == expected
