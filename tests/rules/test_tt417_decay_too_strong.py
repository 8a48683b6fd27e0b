from functools import partial

import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt417_decay_too_strong import DecayTooStrong

RULE = DecayTooStrong()


def run(make_history, *, kept=0.9, grad=0.1, decay=1.0, kind=torch.optim.SGD, steps=100):
    """Eleven records of weights that lose a tenth between two."""
    norms = [4 * kept**i for i in range(11)]
    return make_history(
        steps,
        {"learning_rate": 0.1},
        parameters={
            "weight.norm": {"0.weight": norms, "2.weight": norms, "2.bias": 1.0},
            "gradient.norm": {"0.weight": grad, "2.weight": grad, "2.bias": 1.0},
        },
        model=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        kind=partial(kind, weight_decay=decay),
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT417",
            name="decay-too-strong",
            severity=Severity.WARNING,
            symptom=Symptom.NO_LEARNING,
            step=20,
            what="weight decay of 1 has shrunk typical weights to 35% of their size",
            evidence=(
                Evidence(
                    name="learning rate x weight decay", value=0.1, normal="1e-5 to 1e-4, <= 0.001"
                ),
                Evidence(
                    name="weights over their start",
                    value=pytest.approx(0.34867844),
                    normal=">= 0.7",
                ),
            ),
            cause="weight decay pulls the weights towards zero more strongly than the loss "
            "shapes them",
            fix="set weight_decay to about 0.0001, and to 0 for biases, norms and embeddings",
            remedy=Fix(action="set_weight_decay", args={"weight_decay": 0.0001}),
        )
    ]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
def test_knows_how_optimizers_decay(make_history, kind):
    (found,) = RULE.check(run(make_history, kind=kind))

    assert found.step == 20


@pytest.mark.parametrize(
    "given",
    [
        {"kept": 0.99},  # hold their size
        {"decay": 5e-4},  # of usual strength
        {"decay": 0.0},
        {"kind": torch.optim.Adam, "grad": 40.0},  # the gradient is stronger
        {"steps": 60},  # too early to tell
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("weight_decay=1.0", "weight_decay=1e-4", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
