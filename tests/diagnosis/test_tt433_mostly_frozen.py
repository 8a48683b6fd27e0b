import pytest
import torch
from torch import nn

from trimtab.diagnosis import MostlyFrozen, diagnose
from trimtab.findings import Evidence, Fix, Selection

ALONE = Selection(select=("TT433",))


@pytest.fixture
def frozen(env, make_model):
    """All but one bias of random weights is frozen."""
    model = make_model(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1)))
    model.requires_grad_(False)
    model[2].bias.requires_grad_(True)
    pairs = [(x, x.sum(1, keepdim=True)) for x, _ in env.pairs]
    return model, torch.optim.SGD([model[2].bias], lr=0.01), nn.MSELoss(), pairs


@pytest.mark.slow
@pytest.mark.parametrize("scheduled", [False, True])
def test_fires(frozen, scheduled):
    optimizer = frozen[1]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 50) if scheduled else None

    found = diagnose(*frozen, steps=80, selection=ALONE, scheduler=scheduler)

    (first,) = found.findings
    trial = next(t for t in found.trials if t.kind == "frozen")
    assert trial.learned > 0.3
    assert first == MostlyFrozen().finding(
        what=f"{first.what.partition(' with most')[0]} with most parameters frozen; with all of "
        f"them trained it took {trial.learned:.0%} off the loss",
        evidence=(
            Evidence(
                name="share of the loss taken off by this run",
                value=found.outcome.learned,
                normal=first.evidence[0].normal,
            ),
            Evidence(
                name="by the same run with all parameters trained",
                value=trial.learned,
                normal="no better than the run itself",
            ),
        ),
        cause="requires_grad is False for most parameters, and they hold nothing that was learned",
        fix="call model.requires_grad_(True), and build the optimizer afterwards",
        remedy=Fix(action="unfreeze"),
        symptom=first.symptom,
    )
    assert first.what.startswith("the run ")
    model = frozen[0]
    assert [p.requires_grad for p in model.parameters()] == [False, False, False, True]
    assert len(optimizer.param_groups) == 1


def test_silent_on_a_frozen_backbone_that_serves(frozen):
    model, _, loss_fn, pairs = frozen
    model[2].requires_grad_(True)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.01)

    found = diagnose(model, optimizer, loss_fn, pairs, steps=60, selection=ALONE)

    assert found.healthy
    assert found.outcome.learned > 0.1
