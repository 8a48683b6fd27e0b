import pytest
import torch
from torch import nn

from trimtab.diagnosis import LearningRateTooHigh, diagnose
from trimtab.findings import Evidence, Fix, Selection, Symptom

ALONE = Selection(select=("TT411",))


@pytest.fixture
def regression(env, make_model):
    def make(rate):
        model = make_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)))
        pairs = [(x, x.sum(1, keepdim=True)) for x, _ in env.pairs]
        return model, torch.optim.SGD(model.parameters(), lr=rate), nn.MSELoss(), pairs

    return make


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.3, 30.0])
def test_fires(regression, rate):
    found = diagnose(*regression(rate), steps=60, selection=ALONE)

    trial = found.trials[-1]
    assert trial.learned > 0.3
    assert trial.factor * rate < 0.1
    assert found.outcome.broken
    first_bad = next(
        i for i, v in enumerate(found.outcome.losses, 1) if v != v or abs(v) == float("inf")
    )
    assert first_bad < 60
    assert found.findings == [
        LearningRateTooHigh().finding(
            what=f"the run ended in NaN; with {trial.factor:g} times its learning rate it took "
            f"{trial.learned:.0%} off the loss in 60 steps",
            evidence=(
                Evidence(
                    name="share of the loss taken off by this run",
                    value="none: it broke",
                    normal=found.findings[0].evidence[0].normal,
                ),
                Evidence(
                    name=f"by the same run with learning rate × {trial.factor:g}",
                    value=trial.learned,
                    normal="no better than the run itself",
                ),
            ),
            cause=f"the learning rate is about {1 / trial.factor:g} times too high",
            fix=f"multiply the learning rate by {trial.factor:g}, or warm it up",
            remedy=Fix(action="scale_learning_rate", args={"factor": trial.factor}),
            symptom=Symptom.NAN,
        )
    ]


def test_silent_on_a_sound_rate(regression):
    found = diagnose(*regression(0.02), steps=60, selection=ALONE)

    assert found.healthy
    assert found.trials == ()
    assert found.outcome.learned > 0.3
