import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt511_odd_batch import OddBatch

RULE = OddBatch()


def run(make_history, *, at=30, mean=6.0, loss=9.0, std=1.0):
    """Forty steps; the thirty-first has an odd batch, and a loss nine times the usual one."""
    means, losses = [0.0, 0.1] * 20, [1.0] * 40
    means[at], losses[at] = mean, loss
    return make_history(
        40, {"input.mean": means, "input.std": std, "input.max": 3.0, "loss": losses}
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT511",
            name="odd-batch",
            severity=Severity.WARNING,
            symptom=Symptom.LOSS_SPIKE,
            step=31,
            what="the input of this step had mean 6 and deviation 1, those before 0.05 and 1; "
            "the loss was 9 times the usual one",
            evidence=(
                Evidence(
                    name="deviation of the input over the usual one", value=1.0, normal="0.5 to 2"
                ),
                Evidence(name="loss over its median", value=9.0, normal="<= 4"),
            ),
            cause="a corrupt batch, unlike all others, made a step in a wrong direction",
            fix="look at the data of that step and drop what is out of range; clip gradients "
            "so that one batch cannot do much",
            remedy=Fix(action="skip_batch", args={"step": 31}),
        )
    ]


def test_a_large_gradient_is_harm_too(make_history):
    norms = [1.0] * 30 + [50.0] + [1.0] * 9
    std = [1.0] * 30 + [9.0] + [1.0] * 9
    history = make_history(
        40, {"input.mean": 0.0, "input.std": std, "input.max": 3.0, "gradient.norm": norms}
    )

    assert ["gradient norm was 50 times" in f.what for f in RULE.check(history)] == [True]


@pytest.mark.parametrize(
    "given",
    [
        {"mean": 0.5},
        {"loss": 1.0},  # did no harm
        {"at": 39},  # may be the beginning of something that lasts
        {"at": 5},  # too early to tell
        {"std": float("nan")},  # whole numbers
        {"std": 0.0},
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("30 if", "1 if", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
