import pytest

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt302_divergence import Divergence

RULE = Divergence()


def run(make_history, *, rises_to=12.0, ratio=0.2, steps=60, best=2.0, start=2.0):
    """Losses that are flat for thirty steps, then rise, while updates are large."""
    flat = [start] * 10 + [best] * (steps // 2 - 10)
    rise = [rises_to * (i + 1) / 30 for i in range(steps - len(flat))]
    return make_history(
        steps,
        {"loss": flat + [max(best, r) for r in rise]},
        parameters={"update.ratio": {"0.weight": ratio, "1.weight": ratio}},
    )


def test_says_what_is_wrong(make_history):
    assert list(RULE.check(run(make_history))) == [
        Finding(
            code="TT302",
            name="divergence",
            severity=Severity.ERROR,
            symptom=Symptom.DIVERGENCE,
            step=38,
            what="the loss rose from 2 at the start to 10.2 and stays there",
            evidence=(Evidence(name="rise over the loss at the start", value=4.1, normal="<= 1"),),
            cause="the steps climb instead of descending: the learning rate is too high for the "
            "curvature, or the gradient has the wrong sign or scale",
            fix="divide the learning rate by 10, clip gradients by their global norm, and warm"
            " up; if it diverges at any learning rate, look at the sign of the loss and "
            "the scale of inputs and targets",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.1}),
        )
    ]


def test_a_rise_without_end_needs_no_large_updates(make_history):
    (found,) = RULE.check(run(make_history, rises_to=60.0, ratio=1e-3))

    assert found.step == 31 + 1


def test_an_explosion_is_seen_within_three_steps(make_history):
    history = make_history(
        3, {"loss": [2.0, 1e3, 1e6]}, every=1, parameters={"update.ratio": {"weight": 5.0}}
    )

    assert [f.code for f in RULE.check(history)] == ["TT302"]


@pytest.mark.parametrize(
    "given",
    [
        {"rises_to": 3.5},  # less than twice the start
        {"ratio": 1e-3},  # updates are small, as in reinforcement learning
        {"rises_to": 2.0},  # flat
        {"rises_to": 12.0, "start": 2000.0, "best": 2000.0},  # far below the start
        {"steps": 20},
    ],
)
def test_is_silent_on(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("old", "new", "expected"), [("", "", True), ("lr=1.2", "lr=0.1", False)])
def test_a_real_run(codes_of, old, new, expected):
    assert old in RULE.example
    assert (RULE.code in codes_of(RULE.example.replace(old, new))) is expected
