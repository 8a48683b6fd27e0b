import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt409_updates_round_away import UpdatesRoundAway

RULE = UpdatesRoundAway()


def run(make_history, *, share=0.95, dtype=torch.bfloat16, rate=1e-5, steps=100):
    """One hundred steps, every tenth recorded, of weights in bfloat16."""
    return make_history(
        steps,
        {"learning_rate": rate},
        parameters={"update.unchanged_fraction": {"weight": share, "bias": 0.0}},
        model=nn.Linear(4, 4).to(dtype),
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT409",
            name="updates-round-away",
            severity=Severity.WARNING,
            symptom=Symptom.SLOW_CONVERGENCE,
            step=30,
            what="95% of the updates of typical weights are lost to rounding in bfloat16",
            evidence=(
                Evidence(
                    name="share of elements that a step leaves as they were",
                    value=0.95,
                    normal="<= 0.8",
                ),
            ),
            cause="an update below 0.0039 of its weight rounds to nothing in bfloat16, and at "
            "this learning rate most are",
            fix="keep the weights in float32 and compute in bfloat16 with torch.autocast, or "
            "keep a float32 copy for the optimizer",
            remedy=Fix(action="keep_float32_master"),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"share": 0.7},  # as at healthy updates
        {"dtype": torch.float32},
        {"share": [0.95] * 5 + [0.3] + [0.95] * 5},  # not always
        {"rate": [1e-3] * 50 + [1e-5] * 50},  # the end of a schedule
        {"share": float("nan")},
        {"steps": 60},  # too early to tell
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("lr=1e-5", "lr=1e-1", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
