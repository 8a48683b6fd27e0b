import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt104_clipped_every_step import ClippedEveryStep

RULE = ClippedEveryStep()


def run(make_history, factors, kind=torch.optim.SGD, steps=100):
    values = {"gradient.clip_coefficient": factors, "gradient.norm": 2.0}
    return make_history(steps, values, model=nn.Linear(2, 2), kind=kind)


def test_names_a_threshold_far_below_the_norm(make_history):
    history = run(make_history, 0.005)

    assert list(RULE.check(history)) == [
        Finding(
            code="TT104",
            name="clipped-every-step",
            severity=Severity.WARNING,
            symptom=Symptom.SILENT_CONFIG_ERROR,
            step=1,
            what="100% of the last 100 steps were clipped, to 0.005 of their gradient norm",
            evidence=(
                Evidence(name="share of clipped steps", value=1.0, normal="<= 0.95"),
                Evidence(name="median clip factor", value=0.005, normal=">= 0.1"),
            ),
            cause="the clip threshold is far below the usual gradient norm, so it, and "
            "not the learning rate, sets the length of each step, and small "
            "gradients count like large ones",
            fix="raise the threshold of the gradient clipping to about 2, the 90th "
            "percentile of the norm, or find out why gradients are so large",
            remedy=Fix(action="clip_gradients", args={"max_norm": 2.0}),
        )
    ]


@pytest.mark.parametrize(
    ("factor", "severity"), [(0.05, Severity.ADVICE), (0.01, Severity.WARNING)]
)
def test_adam_bears_more(make_history, factor, severity):
    (finding,) = RULE.check(run(make_history, factor, torch.optim.Adam))

    assert finding.severity is severity


@pytest.mark.parametrize("factors", [1.0, 0.4, [0.01, 1.0] * 50, float("nan")])
def test_is_silent_on_light_or_occasional_clipping(make_history, factors):
    assert list(RULE.check(run(make_history, factors))) == []


def test_waits_for_fifty_steps(make_history):
    assert list(RULE.check(run(make_history, 0.005, steps=49))) == []


@pytest.mark.parametrize(("clip", "expected"), [(0.001, ["TT104"]), (10.0, [])])
def test_tells_a_tight_threshold_from_a_loose_one(train, clip, expected):
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_of(step):
        x = torch.randn(32, 8)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    assert [f.code for f in train(model, optimizer, loss_of, RULE, clip=clip)] == expected
