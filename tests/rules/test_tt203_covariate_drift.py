import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt203_covariate_drift import CovariateDrift

RULE = CovariateDrift()
CALM = [0.1] * 16
"""Of 150 steps."""


def run(make_history, mean, scale, site="0"):
    return make_history(
        150,
        modules={
            "activation.drift_mean": {site: mean},
            "activation.drift_scale": {site: scale},
        },
        model=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)),
        order=["0", "1", "2"],
    )


def test_names_a_hidden_layer_that_runs_away(make_history):
    history = run(make_history, [*CALM[:12], 8.0, 7.0, 6.0, 5.0], CALM[:12] + [3.0] * 4)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT203",
            name="covariate-drift",
            severity=Severity.WARNING,
            symptom=Symptom.OSCILLATING_LOSS,
            site="0",
            step=120,
            what="the mean of this layer's output is 6.5 times its RMS away from "
            "where it was, and its scale 8 times what it was",
            evidence=(
                Evidence(name="drift of the mean, in RMS", value=6.5, normal="<= 2"),
                Evidence(name="scale over its reference", value=8.0, normal="0.25 to 4"),
            ),
            cause="the inputs of the network changed their distribution, or the layers "
            "before this one move faster than those after it can follow: the "
            "learning rate is too high for a network without norm layers",
            fix="check whether the data or its normalisation changed at this step; "
            "otherwise lower the learning rate or add norm layers",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.3}),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"mean": CALM, "scale": CALM},
        {
            "mean": [5.0] * 10 + CALM[:6],
            "scale": [3.0] * 10 + CALM[:6],
        },  # they grow
        {"mean": [*CALM[:13], 9.0, *CALM[:2]], "scale": CALM},  # one batch
        {"mean": CALM[:12] + [8.0] * 4, "scale": CALM, "site": "2"},  # the output
    ],
)
def test_is_silent_on_sound_layers(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("shift", "expected"), [(100.0, {"TT203"}), (0.0, set())])
def test_tells_inputs_that_lose_their_normalisation(train, shift, expected):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)

    def loss_of(step):
        x = torch.randn(64, 8)
        return (model(x + shift if step >= 120 else x) - x[:, :1]).abs().mean()

    found = train(model, optimizer, loss_of, RULE, steps=150)

    assert {f.code for f in found} == expected
