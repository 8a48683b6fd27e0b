import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt501_repeated_batches import RepeatedBatches

RULE = RepeatedBatches()
NAN = float("nan")


def run(make_history, *, inputs=None, targets=NAN, steps=30):
    """Thirty steps; from the eleventh on the input is always the same."""
    inputs = [*range(10), *[7.0] * 20] if inputs is None else inputs
    return make_history(steps, {"input.fingerprint": inputs, "target.fingerprint": targets})


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT501",
            name="repeated-batches",
            severity=Severity.WARNING,
            symptom=Symptom.SILENT_CONFIG_ERROR,
            step=11,
            what="the input was the same in every record since step 11 (20 of them)",
            evidence=(
                Evidence(
                    name="records in a row with the same input",
                    value=20,
                    normal="< 8, unless all data are one batch",
                ),
            ),
            cause="the loop does not take the next batch: the iterator is made anew in each "
            "step, or a variable keeps its first value",
            fix="make the iterator once an epoch, outside of the step; nothing needs to be "
            "done if all data are meant to be one batch",
            remedy=Fix(action="check_loader"),
        )
    ]


def test_one_batch_from_the_start_may_be_meant(make_history):
    (found,) = RULE.check(run(make_history, inputs=7.0))

    assert found.severity is Severity.ADVICE


def test_unless_its_targets_differ(make_history):
    (found,) = RULE.check(run(make_history, inputs=7.0, targets=range(30)))

    assert found.severity is Severity.WARNING
    assert found.what == "the input was the same with different targets (30 of them)"


@pytest.mark.parametrize(
    "given",
    [
        {"inputs": range(30)},
        {"inputs": [*range(25), *[7.0] * 5]},  # not for long
        {"inputs": [1.0, 2.0] * 15},  # two batches that take turns
        {"inputs": [2.0, NAN, 1.0, NAN] + [1.0, NAN] * 13},  # likewise, seen every other time
        {"inputs": NAN},
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("if step < 5:", "if True:", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
