import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt306_oscillating_loss import OscillatingLoss

RULE = OscillatingLoss()
NAN = float("nan")


def run(make_history, *, swing=0.5, falls=0.0, ratio=0.1, weight=10.0, start=2.0, rate=0.1, fp=NAN):
    """Losses that jump up and down by `swing` around 2, while updates are large."""
    loss = [2 - falls * i + swing * (-1) ** i for i in range(120)]
    return make_history(
        120,
        {
            "loss": [start] * 3 + loss[3:],
            "weight.norm": weight,
            "learning_rate": rate,
            "input.fingerprint": fp,
        },
        parameters={"update.ratio": {"weight": ratio}},
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT306",
            name="oscillating-loss",
            severity=Severity.WARNING,
            symptom=Symptom.OSCILLATING_LOSS,
            step=61,
            what="the loss swings by 52% of its level of 2 from step to step, and has not "
            "fallen for 60 steps",
            evidence=(
                Evidence(
                    name="swing over level", value=pytest.approx(0.524178257), normal="<= 0.1"
                ),
                Evidence(
                    name="share of steps at which it turns",
                    value=1.0,
                    normal="about 0.67 for noise",
                ),
                Evidence(name="typical update ratio", value=0.1, normal="<= 0.04, usually 1e-3"),
            ),
            cause="each step overshoots: the learning rate, or the momentum, is too high for the"
            " curvature",
            fix="divide the learning rate by 3 to 10, or lower the momentum",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.3}),
        )
    ]


@pytest.mark.parametrize(
    "given", [{"ratio": 1e-3, "weight": range(1, 121)}, {"ratio": 1e-3, "fp": 7.0}]
)
def test_other_signs_than_large_updates(make_history, given):
    assert [f.code for f in RULE.check(run(make_history, **given))] == ["TT306"]


def test_batches_that_take_turns_are_no_zigzag(make_history):
    for prints in ([1.0, 2.0] * 60, [1.0, NAN] * 60):
        history = run(make_history, ratio=1e-3, fp=prints)

        assert list(RULE.check(history)) == []


def test_optimizers_that_take_turns_are_no_zigzag(make_history):
    history = make_history(
        120,
        {"loss": [1.0, 3.0] * 60},
        parameters={
            "weight.norm": {"g.weight": [1.0, NAN] * 7, "d.weight": [NAN, 1.0] * 7},
            "update.ratio": {"g.weight": 0.1, "d.weight": 0.1},
        },
    )

    assert list(RULE.check(history)) == []


@pytest.mark.parametrize(
    "given",
    [
        {"swing": 0.05},
        {"falls": 0.012},  # it still falls
        {"ratio": 1e-3},  # noise of batches
        {"start": 50.0},  # small beside what was learnt
        {"rate": [1e-3 * i for i in range(120)]},  # warm-up
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("lr=5.0", "lr=0.1", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
