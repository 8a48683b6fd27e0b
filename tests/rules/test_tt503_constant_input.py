import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt503_constant_input import ConstantInput

RULE = ConstantInput()
NAN = float("nan")


def run(make_history, *, mean=0.0, std=0.0):
    """Ten steps with an input of zeros."""
    return make_history(10, {"input.mean": mean, "input.std": std})


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT503",
            name="constant-input",
            severity=Severity.ERROR,
            symptom=Symptom.NO_LEARNING,
            step=1,
            what="all values of the input are 0 in 10 records in a row",
            evidence=(
                Evidence(name="standard deviation of the input", value=0.0, normal="about 1"),
            ),
            cause="the input is constant: it was rounded or masked away, or never filled",
            fix="look at what the data loader returns, and convert to float before dividing",
            remedy=Fix(action="check_loader"),
        )
    ]


def test_knows_other_constants_than_zero(make_history):
    (found,) = RULE.check(run(make_history, mean=255.0, std=1e-5))

    assert found.what == "all values of the input are 255 in 10 records in a row"


@pytest.mark.parametrize(
    "given",
    [
        {"std": 1.0},
        {"std": [1.0] * 8 + [0.0] * 2},  # two batches
        {"mean": 1e4, "std": 1.0},  # large, and not normalised
        {"std": NAN},  # whole numbers
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), (" // 255", " / 255", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
