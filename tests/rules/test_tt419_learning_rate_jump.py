import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt419_learning_rate_jump import LearningRateJump

RULE = LearningRateJump()


def run(make_history, *, rate=None, after=5.0, steps=60):
    """Sixty steps; at the forty-first the learning rate is a hundredfold, and the loss rises."""
    rate = [0.01] * 40 + [1.0] * 20 if rate is None else rate
    loss = [2.0] * 5 + [1.0, 1.1] * 18
    return make_history(steps, {"learning_rate": rate, "loss": loss[:40] + [after] * 20})


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT419",
            name="learning-rate-jump",
            severity=Severity.WARNING,
            symptom=Symptom.DIVERGENCE,
            step=41,
            what="the learning rate jumped from 0.01 to 1, and the loss rose from 1.1 to 5",
            evidence=(
                Evidence(name="learning rate over the step before", value=100.0, normal="<= 5"),
            ),
            cause="the weights had settled where the old learning rate was stable, and the new "
            "one throws them out",
            fix="restore the scheduler when a run is resumed, use one scheduler only, and warm"
            " up to a higher learning rate over some hundred steps",
            remedy=Fix(action="warm_up", args={"steps": 100}),
        )
    ]


def test_large_updates_are_harm_enough(make_history):
    history = make_history(
        60,
        {"learning_rate": [0.01] * 40 + [1.0] * 20},
        every=5,
        parameters={"update.ratio": {"weight": [1e-3] * 9 + [0.5] * 4}},
    )

    assert [f.step for f in RULE.check(history)] == [41]


def test_an_infinite_loss_is_harm_enough(make_history):
    history = run(make_history, after=float("inf"))

    assert ["the loss became infinite" in f.what for f in RULE.check(history)] == [True]


@pytest.mark.parametrize(
    "given",
    [
        {"after": 1.0},  # no harm
        {"rate": 0.01},
        {"rate": [0.01] * 40 + [0.04] * 20},  # fourfold
        {"rate": [1.0] + [0.01] * 39 + [1.0] * 20},  # a restart up to the peak
        {"rate": [0.0] + [1.0] * 59},  # the first step of a warm-up
        {"rate": [0.01 * 1.2**i for i in range(60)]},  # a warm-up
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("*= 200", "*= 1", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
