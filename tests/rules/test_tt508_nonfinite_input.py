import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt508_nonfinite_input import NonfiniteInput

RULE = NonfiniteInput()
NAN = float("nan")


def run(make_history, *, inputs=None, targets=NAN):
    """Ten steps; the sixth has an input with NaN in it."""
    inputs = [0.0] * 5 + [0.125] + [0.0] * 4 if inputs is None else inputs
    return make_history(
        10, {"input.nonfinite_fraction": inputs, "target.nonfinite_fraction": targets}
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT508",
            name="nonfinite-input",
            severity=Severity.ERROR,
            symptom=Symptom.NAN,
            step=6,
            what="0.125 of the input was NaN or infinite, and so in 1 of 10 records",
            evidence=(
                Evidence(name="share of the input that is not finite", value=0.125, normal="0"),
            ),
            cause="the data hold values that are missing or overflowed, and a NaN in the input "
            "makes the loss and every gradient NaN",
            fix="find these rows in the data, and drop or fill them; guard divisions and "
            "logarithms of the preprocessing",
            remedy=Fix(action="filter_nonfinite"),
        )
    ]


def test_a_target_counts_too_and_the_first_is_named(make_history):
    (found,) = RULE.check(run(make_history, targets=[0.0, 0.5] * 5))

    assert found.step == 2
    assert found.what == "0.5 of the target was NaN or infinite, and so in 5 of 10 records"


@pytest.mark.parametrize(
    "given",
    [
        {"inputs": 0.0},
        {"inputs": 0.0, "targets": 0.0},
        {"inputs": NAN},
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("step == 10", "step == 99", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
