import pytest
import torch
from torch import nn

from trimtab.diagnosis import diagnose
from trimtab.findings import Selection

ALONE = Selection(select=("TT436",))


def job(make_model, env, p):
    model = make_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(p), nn.Linear(32, 1)))
    pairs = [(x, x.sum(1, keepdim=True)) for x, _ in env.pairs]
    return model, torch.optim.Adam(model.parameters(), lr=1e-2), nn.MSELoss(), pairs


@pytest.mark.slow
def test_fires(make_model, env):
    model, *rest = job(make_model, env, 0.999)

    found = diagnose(model, *rest, steps=100, selection=ALONE)

    (first,) = found.findings
    trial = next(t for t in found.trials if t.kind == "dropout")
    assert first.code == "TT436"
    assert first.what.endswith(f"with less dropout it took {trial.learned:.0%} off the loss")
    assert first.remedy.args == {"p": 0.1}
    assert model[2].p == 0.999


@pytest.mark.slow
def test_silent_on_usual_dropout(make_model, env):
    found = diagnose(*job(make_model, env, 0.3), steps=100, selection=ALONE)

    assert found.findings == []
