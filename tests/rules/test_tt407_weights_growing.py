import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt407_weights_growing import WeightsGrowing

RULE = WeightsGrowing()


def run(make_history, *, norms=None):
    """Forty records of weights that grow by a tenth each time."""
    return make_history(
        40, {"weight.norm": [1.1**i for i in range(40)] if norms is None else norms}
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT407",
            name="weights-growing",
            severity=Severity.WARNING,
            symptom=Symptom.DIVERGENCE,
            step=14,
            what="the norm of all weights grew from 1 to 41.1, and its growth does not slow down",
            evidence=(
                Evidence(
                    name="norm over that of the start",
                    value=pytest.approx(41.1447778),
                    normal="<= 5",
                ),
                Evidence(
                    name="growth over the newest third",
                    value=pytest.approx(3.45227121),
                    normal="<= 1.3, and slowing down",
                ),
            ),
            cause="the learning rate is too high, or the loss rewards ever larger weights, and "
            "no weight decay holds them",
            fix="lower the learning rate or the momentum, add a weight decay of 0.01 to 0.1 "
            "(AdamW), and look for a wrong sign or a term of the loss without lower bound",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.1}),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"norms": [1.0 + i for i in range(40)]},  # growth that slows down
        {"norms": [1.03**i for i in range(40)]},  # threefold
        {"norms": [1.0] * 39 + [50.0]},  # one jump
        {"norms": [0.0] * 40},
        {"norms": float("nan")},
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("-model(", "model(", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
