import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt402_update_too_small import UpdateTooSmall

RULE = UpdateTooSmall()


def run(make_history, *, ratio=1e-7, rate=1e-6, norm=1.0, steps=60, kind=torch.optim.SGD):
    """Sixty steps, every fifth recorded, with updates of a ten-millionth of the weights."""
    return make_history(
        steps,
        {"learning_rate": rate, "gradient.norm": norm, "weight.norm": 1.0},
        every=5,
        parameters={"update.ratio": {"weight": ratio}},
        model=nn.Linear(4, 4, bias=False),
        kind=kind,
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT402",
            name="update-too-small",
            severity=Severity.WARNING,
            symptom=Symptom.SLOW_CONVERGENCE,
            step=1,
            what="a step changes the weights by 1e-07 of their size at a learning rate of 1e-06",
            evidence=(
                Evidence(name="typical update ratio", value=1e-07, normal="about 1e-3, >= 1e-05"),
                Evidence(name="learning rate", value=1e-06, normal="see the ratio"),
            ),
            cause="the learning rate is far too low: gradients are there, but steps along them "
            "are tiny",
            fix="raise the learning rate, by up to 10000 times, in steps of ten until the loss"
            " falls fast",
            remedy=Fix(action="scale_learning_rate", args={"factor": 10000.0}),
        )
    ]


def test_adam_needs_no_gradient_to_tell(make_history):
    given = {"norm": 1e-9, "kind": torch.optim.Adam}

    assert [f.code for f in RULE.check(run(make_history, **given))] == ["TT402"]


@pytest.mark.parametrize(
    "given",
    [
        {"ratio": 1e-4},
        {"ratio": 0.0},  # nothing moves
        {"norm": 1e-4},  # gradients are small
        {"rate": [1e-8 * i for i in range(60)]},  # warm-up
        {"rate": [1.0] + [1e-6] * 59},  # the end of a schedule
        {"ratio": [1e-3] * 8 + [1e-7] * 5},  # not for long
        {"steps": 20},  # too early to tell
        {"rate": 0.01, "kind": torch.optim.Adam},  # Adam, whose gradients have become zero
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("lr=1e-6", "lr=0.1", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
