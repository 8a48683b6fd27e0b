import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt305_slow_convergence import SlowConvergence

RULE = SlowConvergence()
NAN = float("nan")


def run(make_history, *, end=2.28, ratio=1e-5, norm=1.0, rate=1e-6, start=2.3, log_z=NAN):
    """One hundred losses that hardly fall, at tiny updates."""
    loss = [start + (end - start) * i / 99 for i in range(100)]
    return make_history(
        100,
        {
            "loss": loss,
            "gradient.norm": norm,
            "weight.norm": 10.0,
            "learning_rate": rate,
            "output.log_z": log_z,
        },
        parameters={"update.ratio": {"weight": ratio}},
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT305",
            name="slow-convergence",
            severity=Severity.WARNING,
            symptom=Symptom.SLOW_CONVERGENCE,
            step=1,
            what="in 100 steps the loss went from 2.298 to 2.282, and each step moves the "
            "weights by 1e-05 of their size",
            evidence=(
                Evidence(name="typical update ratio", value=1e-05, normal=">= 3e-05, usually 1e-3"),
                Evidence(
                    name="part of the loss that is left",
                    value=pytest.approx(0.992967342),
                    normal="<= 0.95",
                ),
            ),
            cause="the learning rate is far too low for this model and optimizer, or its "
            "schedule has ended too early",
            fix="raise the learning rate tenfold until the loss falls fast, then go back by a "
            "factor of 3",
            remedy=Fix(action="scale_learning_rate", args={"factor": 10.0}),
        )
    ]


def test_is_stricter_where_the_model_knows_nothing_yet(make_history):
    given = {"ratio": 4e-5, "log_z": 2.303}

    assert [f.code for f in RULE.check(run(make_history, **given))] == ["TT305"]


@pytest.mark.parametrize(
    "given",
    [
        {"end": 1.5},  # it falls
        {"ratio": 4e-5},  # healthy for what is trained already
        {"ratio": 0.0},  # nothing moves
        {"norm": 1e-3},  # nothing is left to learn
        {"rate": [1e-6 * i for i in range(100)]},  # warm-up
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("lr=1e-6", "lr=1e-2", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
