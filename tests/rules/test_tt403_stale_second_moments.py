import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt403_stale_second_moments import StaleSecondMoments

RULE = StaleSecondMoments()


def run(make_history, *, ratio=5.0, jump=9.0, jumps=4, noise=0.05, start=3.0):
    """Eighty losses around 1, after a start at 3; at step 70 moments are stale, and losses jump."""
    loss = [start] * 3 + [1 + noise * (-1) ** i for i in range(3, 80)]
    loss[70 : 70 + jumps] = [jump] * jumps
    ratios = [1.0] * 7 + [ratio] + [1.0]
    return make_history(
        80,
        {"loss": loss},
        parameters={"adam.rms_ratio": {"0.weight": ratios, "2.weight": ratios}},
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT403",
            name="stale-second-moments",
            severity=Severity.WARNING,
            symptom=Symptom.LOSS_SPIKE,
            step=70,
            what="2 of 2 weights got gradients far above what Adam's second moments remember, "
            "and the loss rose from 1 to 9",
            evidence=(
                Evidence(name="median of rms(g / sqrt(v))", value=5.0, normal="about 1, <= 2.3"),
            ),
            cause="gradients grew faster than beta2 lets the second moments follow, so that "
            "updates were several times too large",
            fix="lower beta2 to 0.95, use StableAdamW, which clips such updates, or clip gradients",
            remedy=Fix(action="set_beta2", args={"beta2": 0.95}),
        )
    ]


def test_the_first_steps_are_not_judged(make_history):
    history = make_history(
        40, {"loss": [3.0] * 3 + [1.0] * 27 + [9.0] * 10}, parameters={"adam.rms_ratio": {"w": 9.0}}
    )

    assert list(RULE.check(history)) == []


@pytest.mark.parametrize(
    "given",
    [
        {"ratio": 2.0},
        {"jump": 1.0},  # without consequences
        {"jumps": 1},  # a single noisy batch
        {"noise": 3.0},
        {"start": 1.0},  # nothing was learnt that could be lost
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("else 30)", "else 1)", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
