import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt510_input_shift import InputShift

RULE = InputShift()


def run(make_history, *, mean=None, std=1.0, steps=60, every=1):
    """Sixty steps; from the thirty-first on the mean of the input is 5."""
    mean = [0.0, 0.1] * 15 + [5.0] * 30 if mean is None else mean
    return make_history(steps, {"input.mean": mean, "input.std": std})


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT510",
            name="input-shift",
            severity=Severity.WARNING,
            symptom=Symptom.LOSS_SPIKE,
            step=31,
            what="the input went from mean 0.05 and deviation 1 to 5 and 1, and stays there",
            evidence=(
                Evidence(name="jump of the mean in standard deviations", value=4.95, normal="<= 1"),
                Evidence(name="factor of the standard deviation", value=1.0, normal="0.5 to 2"),
            ),
            cause="the data changed in the middle of the run: another source, another "
            "preprocessing, or a normalisation that was lost",
            fix="apply the same normalisation to all data, and shuffle sources together",
            remedy=Fix(action="normalise_inputs"),
        )
    ]


def test_a_change_of_scale_counts_too(make_history):
    std = [1.0, 1.1] * 15 + [8.0] * 30

    assert [f.step for f in RULE.check(run(make_history, mean=0.0, std=std))] == [31]


@pytest.mark.parametrize(
    "given",
    [
        {"mean": 0.0},
        {"mean": [0.0] * 30 + [0.8] * 30},  # less than a standard deviation
        {"mean": [0.0, 4.0] * 30},  # batches differ as much
        {"mean": [0.0] * 55 + [5.0] * 5},  # a few odd batches
        {"mean": [0.1 * i for i in range(60)]},  # slow change
        {"mean": [0.0] * 30 + [5.0] * 10 + [0.0] * 20},  # it came back
        {"std": float("nan")},
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [("", "", True), ("5 * torch.randn(32, 8) + 20", "torch.randn(32, 8)", False)],
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
