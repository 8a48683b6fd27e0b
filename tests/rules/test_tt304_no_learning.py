import numpy as np
import pytest
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt304_no_learning import NoLearning

RULE = NoLearning()
NAN = float("nan")


def run(make_history, *, loss=2.3, ratio=1e-8, norm=1.0, noise=0.01, steps=160, varies=NAN):
    """Losses that do not fall, while updates are next to nothing."""
    wave = [noise * (-1) ** i for i in range(steps)]
    given = [loss] * steps if np.ndim(loss) == 0 else loss
    return make_history(
        steps,
        {
            "loss": [v + w for v, w in zip(given, wave, strict=True)],
            "gradient.norm": norm,
            "weight.norm": 10.0,
        },
        parameters={"update.ratio": {"0.weight": ratio, "2.weight": ratio}},
        modules={"activation.variation": {"2": varies}},
        model=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT304",
            name="no-learning",
            severity=Severity.WARNING,
            symptom=Symptom.NO_LEARNING,
            step=1,
            what="after 160 steps the loss is 2.29, and at the start it was 2.31",
            evidence=(
                Evidence(
                    name="part of the loss that was learnt",
                    value=pytest.approx(0.00865800866),
                    normal="> 0.01",
                ),
                Evidence(name="typical update ratio", value=1e-08, normal="1e-06 to 0.1"),
            ),
            cause="nothing that the loss depends on is being learnt: the weights hardly move, no"
            " gradient reaches them, or the labels do not go with the inputs",
            fix="check that the learning rate is right, that a gradient reaches every layer, "
            "and that a single batch can be learnt by heart; if it can, check that labels "
            "and inputs belong together",
            remedy=Fix(action="overfit_one_batch"),
        )
    ]


def test_a_plateau_alone_is_advice(make_history):
    (found,) = RULE.check(run(make_history, ratio=1e-3))

    assert (found.severity, len(found.evidence)) == (Severity.ADVICE, 1)


@pytest.mark.parametrize("given", [{"ratio": 0.5}, {"ratio": 1e-3, "varies": 1e-5}])
def test_other_signs_make_it_a_warning(make_history, given):
    (found,) = RULE.check(run(make_history, **given))

    assert (found.severity, len(found.evidence)) == (Severity.WARNING, 2)


@pytest.mark.parametrize(
    "given",
    [
        {"loss": [2.3] * 100 + [2.0] * 60},  # it fell
        {"loss": [2.3] * 20 + [1.0] * 60 + [2.3] * 80},  # it fell, and came back
        {"loss": [2.3] * 100 + [3.0] * 60},  # it rose
        {"norm": 1e-4},  # nothing is left to learn
        {"loss": 0.0},  # around zero
        {"noise": 1.5},  # too noisy to tell
        {"steps": 140},  # too early to tell
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("lr=1e-7", "lr=0.1", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
