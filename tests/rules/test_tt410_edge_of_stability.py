from functools import partial

import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules import GroupFacts
from trimtab.rules.tt410_edge_of_stability import EdgeOfStability, stability_limit

RULE = EdgeOfStability()


def run(make_history, *, sharpness=60.0, rate=0.1, kind=torch.optim.SGD):
    """Thirty steps of gradient descent where curvature x learning rate is 6."""
    return make_history(
        30,
        {"curvature.sharpness": sharpness, "learning_rate": rate},
        model=nn.Linear(4, 4),
        kind=kind,
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT410",
            name="edge-of-stability",
            severity=Severity.WARNING,
            symptom=Symptom.DIVERGENCE,
            step=29,
            what="learning rate x sharpness is 6, and beyond 2 SGD is unstable",
            evidence=(Evidence(name="learning rate x sharpness", value=6.0, normal="<= 2"),),
            cause="the learning rate is too high for the curvature: along the sharpest direction"
            " each step overshoots by more than the last",
            fix="divide the learning rate by 3, or warm it up so that the sharpness falls first",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.33}),
        )
    ]


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"optimizer": "SGD"}, 2.0),
        ({"optimizer": "SGD", "momentum": 0.9}, 3.8),
        ({"optimizer": "AdamW", "beta1": 0.9, "beta2": 0.999}, 38.0),
        ({"optimizer": "Adagrad"}, None),
    ],
)
def test_limits_of_optimizers(settings, limit):
    found = stability_limit(GroupFacts(lr=0.1, **settings))

    assert found == (None if limit is None else pytest.approx(limit))


@pytest.mark.parametrize(
    "given",
    [
        {"sharpness": 25.0},  # at the edge
        {"sharpness": [10.0] * 29 + [60.0]},  # once
        {"sharpness": float("nan")},  # not measured
        {"rate": 0.01},
        {"kind": torch.optim.Adam},  # which bears 38
        {
            "kind": partial(torch.optim.SGD, momentum=0.9, nesterov=False),
            "sharpness": 55.0,
        },  # which bears 3.8
        {"kind": torch.optim.Adagrad},  # of which nothing is known
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("60.0}", "15.0}", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
