import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt401_update_too_large import UpdateTooLarge

RULE = UpdateTooLarge()


def run(make_history, *, ratio=0.2, loss=2.0, steps=30, second=None):
    """Thirty steps, each of which is recorded, with updates of a fifth of the weights."""
    return make_history(
        steps,
        {"loss": loss, "learning_rate": 0.5},
        every=1,
        parameters={"update.ratio": {"0": ratio, "2": second or ratio, "4": second or ratio}},
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT401",
            name="update-too-large",
            severity=Severity.WARNING,
            symptom=Symptom.DIVERGENCE,
            step=11,
            what="a step changes the weights by 0.2 of their size; most in 0 (0.2)",
            evidence=(
                Evidence(name="typical update ratio", value=0.2, normal="about 1e-3, <= 0.1"),
                Evidence(name="learning rate", value=0.5, normal="see the ratio"),
            ),
            cause="the learning rate is too high: what the steps before learnt is thrown away",
            fix="multiply the learning rate by about 0.005, clip gradients by their global "
            "norm, and warm up",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.005}),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"ratio": [0.4, 0.3, 0.1] + [0.01] * 27, "loss": [2.0, 4.0, 5.0] + [2.0] * 27},
        {"ratio": [2.0, 0.9, 0.1] + [0.01] * 27},
        {"ratio": [3.0, 3.0], "steps": 2},
    ],
)
def test_a_start_that_loses_the_initial_weights(make_history, given):
    assert [f.step for f in RULE.check(run(make_history, **given))] == [1]


def test_is_stricter_where_the_loss_has_risen(make_history):
    risen = [2.0] * 3 + [2.5] * 27

    assert [f.step for f in RULE.check(run(make_history, ratio=0.07, loss=risen))] == [11]


@pytest.mark.parametrize(
    "given",
    [
        {"ratio": 0.09},  # as with batch normalisation
        {"ratio": 0.5, "second": 1e-3},  # only one
        {"ratio": [0.25] * 10 + [0.01] * 20},  # the first steps of Adam
        {"ratio": [0.01] * 25 + [0.5] * 5},  # not for long
        {"loss": [2.0 * 0.9**i for i in range(30)]},  # the loss falls fast
        {"steps": 8},  # too early to tell
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("lr=1.0", "lr=1e-3", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
