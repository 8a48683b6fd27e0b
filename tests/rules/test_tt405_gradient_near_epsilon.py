from functools import partial

import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt405_gradient_near_epsilon import GradientNearEpsilon

RULE = GradientNearEpsilon()


def run(make_history, *, rms=1e-9, ratio=1e-5, clip=1.0, eps=1e-8, kind=torch.optim.Adam, end=1.0):
    """Thirty steps with gradients below epsilon."""
    return make_history(
        30,
        {"gradient.clip_coefficient": clip, "loss": [1.0] * 15 + [end] * 15},
        every=2,
        parameters={
            "gradient.rms": {"0.weight": rms, "2.weight": rms},
            "update.ratio": {"0.weight": ratio, "2.weight": ratio},
        },
        model=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        kind=partial(kind, eps=eps) if kind is torch.optim.Adam else kind,
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT405",
            name="gradient-near-epsilon",
            severity=Severity.WARNING,
            symptom=Symptom.SLOW_CONVERGENCE,
            step=12,
            what="the gradients of 100% of the weights are below Adam's epsilon of 1e-08, and "
            "updates shrink to 1e-05 of the weights",
            evidence=(
                Evidence(
                    name="median RMS of the gradients",
                    value=1e-09,
                    normal="far above epsilon, 1e-08",
                ),
                Evidence(name="typical update ratio", value=1e-05, normal="about 1e-3"),
            ),
            cause="Adam divides by sqrt(v) + epsilon, and epsilon outweighs the gradients: they "
            "are tiny, or epsilon (eps) is too large",
            fix="set eps to 1e-11, and look for a loss that is divided too often or a clip "
            "threshold that is far too low",
            remedy=Fix(action="set_eps", args={"eps": 1.0000000000000001e-11}),
        )
    ]


def test_gradients_that_are_clipped_to_nothing_count(make_history):
    history = run(make_history, rms=1e-3, clip=1e-6)

    assert [f.code for f in RULE.check(history)] == ["TT405"]


@pytest.mark.parametrize(
    "given",
    [
        {"rms": 1e-5},
        {"rms": 0.0},  # no gradient
        {"ratio": 1e-3},  # a large epsilon on purpose
        {"end": 0.01},  # converged
        {"kind": torch.optim.SGD},  # no epsilon
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("1e-9 * (", "1.0 * (", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
