import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt406_update_spike import UpdateSpike

RULE = UpdateSpike()


def run(make_history, *, ratios=None, rates=0.1):
    """Twenty records; the last step changes the weights a hundred times as much."""
    ratios = [1e-3] * 19 + [0.1] if ratios is None else ratios
    return make_history(
        20,
        {"learning_rate": rates},
        every=1,
        parameters={"update.ratio": {"0.weight": ratios, "2.weight": ratios}},
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT406",
            name="update-spike",
            severity=Severity.WARNING,
            symptom=Symptom.LOSS_SPIKE,
            step=20,
            what="a step changed the weights by 0.1 of their size, 100 times as much as usual",
            evidence=(
                Evidence(name="update ratio over its median", value=100.0, normal="<= 10"),
                Evidence(name="typical update ratio", value=0.1, normal="about 1e-3, <= 0.02"),
            ),
            cause="the gradient of that step was far larger than those before, by a batch unlike"
            " the others or by a steep wall of the loss, and nothing limited the update",
            fix="clip gradients by their global norm, and look at the batch of that step; with"
            " Adam, StableAdamW clips the update itself",
            remedy=Fix(action="clip_gradients", args={"max_norm": 1.0}),
        )
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"ratios": [1e-5] * 19 + [1e-3]},  # small in itself
        {"ratios": [1e-3] * 19 + [5e-3]},
        {"ratios": [1e-3, 0.08] * 9 + [1e-3, 0.1]},  # no more than others before
        {"rates": [1e-3] * 19 + [0.1]},  # the learning rate rose
        {"ratios": [1e-3] * 5 + [0.1] + [1e-3] * 14},  # too early to tell then
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("", "", True), ("scale = 1000", "scale = 1", False)]
)
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
