import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt301_loss_spike import LossSpike

RULE = LossSpike()


def losses(*, peak=9.0, lasts=3, noise=0.1, before=1.0, after=1.0):
    """One hundred losses around 1, after 3 at the start, with a spike from step 81 on."""
    wave = [noise * (-1) ** i for i in range(100)]
    values = [3.0, 3.0, 3.0] + [before + w for w in wave[3:80]] + [after + w for w in wave[80:]]
    values[80 : 80 + lasts] = [peak] * lasts
    return values


def run(make_history, **given):
    return make_history(100, {"loss": losses(**given)})


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT301",
            name="loss-spike",
            severity=Severity.WARNING,
            symptom=Symptom.LOSS_SPIKE,
            step=81,
            what="the loss jumped from 1.1 to 9 and came back",
            evidence=(
                Evidence(
                    name="height of the spike in robust deviations",
                    value=26.6,
                    normal="<= 7 for three steps, <= 20 for one",
                ),
                Evidence(name="steps above", value=1, normal="0"),
            ),
            cause="a batch unlike the others, or a step too large for the curvature, threw the "
            "weights out of the region they had found",
            fix="clip gradients by their global norm, lower the learning rate or warm it up "
            "longer, and look at the batch of that step",
            remedy=Fix(action="clip_gradients", args={"max_norm": 1.0}),
        )
    ]


def test_a_single_step_is_advice(make_history):
    (found,) = RULE.check(run(make_history, lasts=1))

    assert (found.severity, found.step) == (Severity.ADVICE, 81)


def test_waits_until_it_is_known_whether_the_spike_lasts(make_history):
    history = make_history(84, {"loss": losses()[:84]})

    assert list(RULE.check(history)) == []


@pytest.mark.parametrize(
    "given",
    [
        {"peak": 1.5},  # four deviations
        {"lasts": 0},
        {"noise": 5.0},  # noisier than the spike is high
        {"after": 9.0},  # it does not come back
        {"peak": -9.0},  # downwards
        {"peak": float("nan")},
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("1000 * torch.randn(32, 1)", "x @ w", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
