import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt105_first_layer_gradient import FirstLayerGradient

RULE = FirstLayerGradient()


def run(make_history, first, *, num_layers=3):
    """A run of 120 steps: thirteen records of the first layer's norm, others at 1."""
    model = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(num_layers)])
    norms = {f"{i}.weight": 1.0 for i in range(num_layers)} | {"0.weight": first}
    return make_history(
        120,
        parameters={"gradient.norm": norms},
        model=model,
        order=[str(i) for i in range(num_layers)],
    )


def test_names_a_first_layer_that_outgrows_the_others(make_history):
    history = run(make_history, [2.0] * 8 + [10.0] * 5)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT105",
            name="first-layer-gradient",
            severity=Severity.WARNING,
            symptom=Symptom.EXPLODING_GRADIENT,
            site="0.weight",
            step=80,
            what="the first layer holds 98.0% of the squared gradient norm, and its "
            "gradient has grown to 5 times what it was",
            evidence=(
                Evidence(
                    name="share of the squared gradient norm",
                    value=pytest.approx(0.980392),
                    normal="<= 0.95",
                ),
                Evidence(name="growth of the first layer's gradient", value=5.0, normal="<= 3"),
            ),
            cause="the inputs have become large, or a few rows drive the embedding; "
            "clipping by the global norm then holds back every other layer, and "
            "a loss spike often follows",
            fix="normalise the inputs, add a norm layer after the embedding, shrink "
            "its gradient to a tenth, or give it a lower learning rate",
            remedy=Fix(action="normalise_inputs"),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"first": 1.0},
        {"first": 10.0},  # a large share that does not grow
        {"first": [0.1] * 8 + [1.0] * 5},  # growth to a common share
        {"first": [2.0] * 8 + [10.0] + [2.0] * 4},  # a spike
        {"first": [2.0] * 8 + [10.0] * 5, "num_layers": 2},
    ],
)
def test_is_silent_on_sound_shares(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("scale", "expected"), [(100, ["TT105"]), (1, [])])
def test_tells_inputs_that_grow_from_those_that_stay(train, scale, expected):
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
    model.append(nn.Linear(32, 1))
    nn.init.normal_(model[0].weight, std=0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)

    def loss_of(step):
        x = torch.randn(32, 8)
        return (model(x if step < 50 else scale * x) - x[:, :1]).square().mean()

    assert [f.code for f in train(model, optimizer, loss_of, RULE, steps=110)] == expected
