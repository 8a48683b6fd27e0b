import pytest
import torch
from torch import nn

from trimtab.diagnosis import LearningRateTooLow, diagnose
from trimtab.findings import Evidence, Fix, Selection, Symptom

ALONE = Selection(select=("TT412",))


@pytest.fixture
def regression(env, make_model):
    def make(rate):
        model = make_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)))
        pairs = [(x, x.sum(1, keepdim=True)) for x, _ in env.pairs]
        return model, torch.optim.SGD(model.parameters(), lr=rate), nn.MSELoss(), pairs

    return make


@pytest.mark.slow
def test_fires(regression):
    found = diagnose(*regression(1e-6), steps=60, selection=ALONE)

    (first,) = found.findings
    trial = next(t for t in found.trials if t.factor == first.remedy.args["factor"])
    assert trial.learned > 0.05
    assert trial.factor >= 10
    own = found.outcome.learned
    how = "learned nothing" if own < 0.03 else f"took only {own:.0%} off the loss"
    assert first == LearningRateTooLow().finding(
        what=f"the run {how}; with "
        f"{trial.factor:g} times its learning rate it took {trial.learned:.0%} off the loss in 60 "
        "steps",
        evidence=(
            Evidence(
                name="share of the loss taken off by this run",
                value=own,
                normal=first.evidence[0].normal,
            ),
            Evidence(
                name=f"by the same run with learning rate × {trial.factor:g}",
                value=trial.learned,
                normal="no better than the run itself",
            ),
        ),
        cause=f"the learning rate is about {trial.factor:g} times too low",
        fix=f"multiply the learning rate by {trial.factor:g}",
        remedy=Fix(action="scale_learning_rate", args={"factor": trial.factor}),
        symptom=first.symptom,
    )
    assert first.symptom in {Symptom.NO_LEARNING, Symptom.SLOW_CONVERGENCE}


def test_silent_on_a_low_rate_that_learns(regression):
    found = diagnose(*regression(3e-3), steps=60, selection=ALONE)

    assert found.healthy
