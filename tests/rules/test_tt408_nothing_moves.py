import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt408_nothing_moves import NothingMoves

RULE = NothingMoves()
NAN = float("nan")


def run(make_history, *, rate=0.0, ratio=0.0, norm=1.0, loss=2.0, skipped=0.0, steps=50):
    """Fifty steps, every tenth recorded, none of which moves a weight."""
    return make_history(
        steps,
        {"learning_rate": rate, "loss": loss, "step.skipped": skipped},
        parameters={
            "update.ratio": {"weight": ratio},
            "gradient.norm": {"weight": norm, "bias": NAN},
        },
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT408",
            name="nothing-moves",
            severity=Severity.ERROR,
            symptom=Symptom.NO_LEARNING,
            step=1,
            what="the learning rate is 0, and no weight has changed in 6 records",
            evidence=(Evidence(name="learning rate", value=0.0, normal="> 0"),),
            cause="a step along the gradient has the length of the learning rate: none",
            fix="set the learning rate, and see to it that the schedule does not multiply it by 0",
            remedy=Fix(action="set_learning_rate", args={"lr": 0.001}),
        )
    ]


@pytest.mark.parametrize(
    ("norm", "word"), [(1.0, "restores"), (NAN, "backward()"), (0.0, "zero_grad()")]
)
def test_says_what_may_be_wrong_where_the_rate_is_right(make_history, norm, word):
    (found,) = RULE.check(run(make_history, rate=0.1, norm=norm))

    assert word in found.cause


@pytest.mark.parametrize(
    "given",
    [
        {"ratio": 1e-9},  # moves, if hardly
        {"ratio": [0.0, 1e-3] + [0.0] * 4},  # moved once, as at the end of a schedule
        {"skipped": 1.0},  # left out
        {"loss": 0.0},  # nothing is left to learn
        {"ratio": NAN},  # not known
        {"steps": 30},  # too early to tell
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("lr=0.0", "lr=0.1", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
