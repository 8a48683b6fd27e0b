import numpy as np
import pytest
import torch
from torch import nn

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom
from trimtab.rules.tt106_accumulating_gradients import AccumulatingGradients

RULE = AccumulatingGradients()


def run(make_history, norms, noise=0.2, factors=1.0):
    values = {
        "gradient.norm": norms,
        "gradient.noise_scale": noise,
        "gradient.clip_coefficient": factors,
    }
    return make_history(40, values)


def test_names_norms_that_grow_with_the_number_of_steps(make_history):
    history = run(make_history, [0.8 * step for step in range(1, 41)])

    assert list(RULE.check(history)) == [
        Finding(
            code="TT106",
            name="accumulating-gradients",
            severity=Severity.ERROR,
            symptom=Symptom.SILENT_CONFIG_ERROR,
            step=2,
            what="the gradient norm grew 20-fold within the first 20 steps, in step "
            "with their number, and each gradient points where the one before did",
            evidence=(
                Evidence(name="gradient noise scale", value=0.2, normal=">= 1"),
                Evidence(name="growth of the gradient norm", value=20.0, normal="about 1"),
            ),
            cause="gradients are not cleared between steps, so each one is the sum of "
            "all so far: zero_grad() is missing, or clears another optimizer's "
            "parameters",
            fix="call optimizer.zero_grad() before each backward(), or after each "
            "optimizer.step() if several backward passes make one step",
            remedy=Fix(action="zero_gradients"),
        )
    ]


def test_looks_no_further_than_the_first_clipped_step(make_history):
    norms = [0.2 * min(step, 6) for step in range(1, 41)]
    history = run(make_history, norms, factors=[1.0] * 5 + [0.9] * 35)

    assert [f.code for f in RULE.check(history)] == ["TT106"]


@pytest.mark.parametrize(
    "given",
    [
        {"norms": 1.0},
        {"norms": [0.8 * step for step in range(1, 41)], "noise": 5.0},  # batches that disagree
        {"norms": [1.3**step for step in range(1, 41)]},  # growth of another kind
        {"norms": [step * (1.2 if step % 2 else 0.8) for step in range(1, 41)]},  # jitter
        {"norms": list(np.sqrt(np.arange(1, 41)))},  # a sum of things unrelated
        {"norms": [0.0] + [0.8 * step for step in range(2, 41)]},  # a head that starts at zero
    ],
)
def test_is_silent_on_gradients_of_single_batches(make_history, given):
    assert list(RULE.check(run(make_history, **given))) == []


@pytest.mark.parametrize(("clear", "expected"), [(False, ["TT106"]), (True, [])])
@pytest.mark.parametrize("watch", [2, 10])
def test_tells_a_missing_zero_grad(train, clear, watch, expected):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters())

    def loss_of(step):
        x = torch.randn(32, 8)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    found = train(model, optimizer, loss_of, RULE, steps=70, clear=clear, watch=watch)

    assert [f.code for f in found] == expected


def test_is_silent_on_the_whole_data_set(train):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.zeros_(model[2].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    x = torch.randn(256, 8)

    def loss_of(step):
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    assert train(model, optimizer, loss_of, RULE, steps=60) == []
