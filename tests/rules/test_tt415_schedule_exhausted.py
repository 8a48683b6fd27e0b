import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt415_schedule_exhausted import ScheduleExhausted

RULE = ScheduleExhausted()


def run(make_history, *, rate=None, loss=2.0):
    """One hundred steps; from the forty-first on the learning rate is a millionth."""
    rate = [1e-3] * 40 + [1e-9] * 60 if rate is None else rate
    return make_history(100, {"learning_rate": rate, "loss": loss})


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT415",
            name="schedule-exhausted",
            severity=Severity.WARNING,
            symptom=Symptom.SLOW_CONVERGENCE,
            step=41,
            what="the learning rate fell from 0.001 to 1e-09 by step 41, and 59 steps were made"
            " since",
            evidence=(
                Evidence(
                    name="learning rate over its peak",
                    value=1e-06,
                    normal="> 0.001 until the run ends",
                ),
            ),
            cause="the schedule is over long before the run: a scheduler built for epochs is "
            "stepped after every batch, or its length is wrong",
            fix="call scheduler.step() once an epoch if it counts epochs, or build the "
            "schedule for the number of all steps",
            remedy=Fix(action="stretch_schedule"),
        )
    ]


def test_a_long_run_may_end_slowly(make_history):
    rate = [1e-3] * 400 + [0.0] * 100

    assert list(RULE.check(make_history(500, {"learning_rate": rate}))) == []


@pytest.mark.parametrize(
    "given",
    [
        {"rate": [1e-3] * 60 + [1e-9] * 40},  # the end of a schedule
        {"rate": [1e-3] * 40 + [1e-5] * 60},  # a floor of a hundredth
        {"rate": [1e-3] * 40 + [0.0] * 59 + [1e-3]},  # a restart
        {"rate": 0.0},  # never was any
        {"loss": [2.0] * 40 + [0.01] * 60},  # all was learnt
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("10, 0.1)", "1000, 0.1)", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
