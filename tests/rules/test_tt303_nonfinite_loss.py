import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt303_nonfinite_loss import NonfiniteLoss

RULE = NonfiniteLoss()
NAN = float("nan")


def run(make_history, *, loss=None, norm=None, skipped=0.0):
    """Ten losses; from the eighth on they are NaN."""
    return make_history(
        10,
        {
            "loss": [1.0] * 7 + [NAN] * 3 if loss is None else loss,
            "gradient.norm": [1.0] * 7 + [NAN] * 3 if norm is None else norm,
            "step.skipped": skipped,
        },
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT303",
            name="nonfinite-loss",
            severity=Severity.ERROR,
            symptom=Symptom.NAN,
            step=8,
            what="the loss was NaN, after 1 in the step before, and has not been finite since",
            evidence=(Evidence(name="steps with a loss that is not finite", value=3, normal="0"),),
            cause="a value overflowed, or the loss took a logarithm, root or quotient where it "
            "is not defined, or the batch held NaN",
            fix="look at the batch of that step and at logarithms, roots and divisions in the "
            "loss; use losses that take logits, and lower the learning rate if the loss "
            "rose before",
            remedy=Fix(action="locate_nonfinite"),
        )
    ]


def test_a_step_that_was_left_out_is_a_warning(make_history):
    bad = [1.0] * 5 + [NAN] + [1.0] * 4
    (found,) = RULE.check(
        run(make_history, loss=bad, norm=bad, skipped=[0.0] * 5 + [1.0] + [0.0] * 4)
    )

    assert (found.severity, found.step) == (Severity.WARNING, 6)
    assert found.what == "the loss was NaN, after 1 in the step before, and the step was left out"


def test_infinity_needs_no_other_sign(make_history):
    (found,) = RULE.check(run(make_history, loss=[float("inf")] + [1.0] * 9, norm=1.0))

    assert (found.step, found.what) == (1, "the loss was infinite")


@pytest.mark.parametrize(
    "given",
    [
        {"loss": 1.0, "norm": 1.0},
        {"loss": NAN, "norm": NAN},  # never given
        {"norm": 1.0},  # not given in these steps
        {"loss": [1.0, NAN] * 5, "norm": [1.0] * 9 + [NAN]},  # given now and then
        {"loss": 1.0, "norm": [1.0] * 9 + [float("inf")]},  # an overflow of the loss scale
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("if step == 20", "if step == 99", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
