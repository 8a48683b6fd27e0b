import pytest
import torch
from torch import nn

from trimtab.diagnosis import UnusualOptimizerSettings, diagnose
from trimtab.findings import Evidence, Fix, Selection

ALONE = Selection(select=("TT431",))


@pytest.fixture
def regression(env, make_model):
    def make(momentum):
        model = make_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)))
        pairs = [(x, x.sum(1, keepdim=True)) for x, _ in env.pairs]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum)
        return model, optimizer, nn.MSELoss(), pairs

    return make


@pytest.mark.slow
def test_fires(regression):
    found = diagnose(*regression(0.9999), steps=80, selection=ALONE)

    (first,) = found.findings
    trial = next(t for t in found.trials if t.kind == "optimizer")
    assert trial.learned > 0.5
    how = first.what.split(";")[0]
    assert how in {"the run ended above where it began", "the run ended in NaN"}
    own = found.outcome.learned
    assert first == UnusualOptimizerSettings().finding(
        what=f"{how}; with the optimizer's usual momentum, betas and epsilon it took "
        f"{trial.learned:.0%} off the loss",
        evidence=(
            Evidence(
                name="share of the loss taken off by this run",
                value=own if abs(own) < float("inf") else "none: it broke",
                normal=first.evidence[0].normal,
            ),
            Evidence(
                name="by the same run with usual optimizer settings",
                value=trial.learned,
                normal="no better than the run itself",
            ),
        ),
        cause="momentum, betas or epsilon are far from any in common use",
        fix="use the optimizer's default settings",
        remedy=Fix(action="usual_settings"),
        symptom=first.symptom,
        step=first.step,
    )


def test_silent_on_common_settings(regression):
    assert diagnose(*regression(0.9), steps=80, selection=ALONE).healthy
