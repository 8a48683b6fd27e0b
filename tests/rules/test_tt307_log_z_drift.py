import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt307_log_z_drift import LogZDrift

RULE = LogZDrift()
NAN = float("nan")


def run(make_history, *, log_z=None, loss=2.3, end=1.0):
    """Twenty steps in which log Z goes from 2.3 to 97.3."""
    return make_history(
        20,
        {
            "output.log_z": [2.3 + 5 * i for i in range(20)] if log_z is None else log_z,
            "loss": [loss] * 5 + [end] * 15,
        },
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT307",
            name="log-z-drift",
            severity=Severity.WARNING,
            symptom=Symptom.DIVERGENCE,
            step=11,
            what="log Z of the logits went from 2.3 to 97.3 and is still on its way",
            evidence=(Evidence(name="magnitude of log Z", value=84.8, normal="<= 50"),),
            cause="cross-entropy does not hold the logits in place, and at this size bfloat16 "
            "rounds them to a quarter or worse",
            fix="add a z-loss of 1e-4 x (log Z)^2, or cap the logits softly",
            remedy=Fix(action="add_z_loss", args={"weight": 0.0001}),
        )
    ]


def test_drift_below_zero_counts_too(make_history):
    drift = [2.3 - 5 * i for i in range(20)]

    assert [f.step for f in RULE.check(run(make_history, log_z=drift))] == [12]


@pytest.mark.parametrize(
    "given",
    [
        {"log_z": [2.3 + i for i in range(20)]},  # below 50
        {"log_z": [2.3] + [80.0] * 19},  # not on its way any more
        {"loss": 100.0},  # no logits, as in regression
        {"end": 0.01},  # nearly all predictions are right
        {"end": 3.0},  # it diverges
        {"log_z": NAN},
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [("", "", True), ("- 10 * logits.mean()", "+ 0 * logits.mean()", False)],
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
