import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt404_loss_scale_collapse import LossScaleCollapse

RULE = LossScaleCollapse()


def run(make_history, *, scale=None, skipped=1.0):
    """Twenty steps, each of which overflows and halves the scale."""
    scale = [65536 * 0.5**i for i in range(20)] if scale is None else scale
    return make_history(20, {"loss_scale": scale, "step.skipped": skipped})


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT404",
            name="loss-scale-collapse",
            severity=Severity.ERROR,
            symptom=Symptom.NAN,
            step=2,
            what="the loss scale fell from 65536 to 0.125, and 100% of the last 20 steps were "
            "left out",
            evidence=(
                Evidence(name="loss scale", value=0.125, normal="> 16"),
                Evidence(name="share of steps left out", value=1.0, normal="< 0.01"),
            ),
            cause="gradients in fp16 overflow again and again, whatever the scale: something is "
            "infinite or NaN before it is scaled, or activations grow",
            fix="find the first value that is not finite, use bfloat16 in place of fp16, and "
            "compute the loss in float32",
            remedy=Fix(action="set_precision", args={"dtype": "bfloat16"}),
        )
    ]


def test_falling_on_and_on_is_enough(make_history):
    scale = [2.0**30 * 0.5 ** (i // 2 * 2) for i in range(20)]
    (found,) = RULE.check(run(make_history, scale=scale, skipped=[0.0, 1.0] * 10))

    assert found.evidence[0].value == 4096


@pytest.mark.parametrize(
    "given",
    [
        {
            "scale": [65536 * 0.5 ** min(i, 6) for i in range(20)],
            "skipped": [1.0] * 6 + [0.0] * 14,
        },  # finding its scale
        {"scale": 65536.0, "skipped": 0.0},
        {"scale": 8.0, "skipped": 0.0},  # a low scale from the start
        {"scale": 1.0},  # no scaler
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("* 3e37", "", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
