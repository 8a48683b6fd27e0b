import itertools
import math

import pytest
import torch
from torch import nn

from trimtab import ConfigError
from trimtab.train import OptimizerConfig
from trimtab.train._build import build_optimizer, build_schedule

STEPS = 50
LR, FLOOR = 0.02, 0.25


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def rates(model, **settings):
    config = OptimizerConfig(lr=LR, min_lr_ratio=FLOOR, **settings)
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, config, STEPS)
    seen = []
    for _ in range(STEPS + 5):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def expected(kind, step, warmup):
    """The factor of the peak, as the settings describe it."""
    if step < warmup:
        return step / warmup
    done = min(1, (step - warmup) / (STEPS - warmup))
    if kind == "constant":
        return 1
    if kind == "linear":
        return 1 - (1 - FLOOR) * done
    if kind == "cosine":
        return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2
    return None  # wsd has a test of its own


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.2, 10])
def test_the_schedule_is_the_one_described(model, kind, warmup):
    for step, lr in enumerate(rates(model, schedule=kind, warmup=warmup)):
        assert lr == pytest.approx(LR * expected(kind, step, 10)), step


def test_wsd_holds_the_peak_and_falls_over_the_last_fifth(model):
    seen = rates(model, schedule="wsd", warmup=10)
    assert seen[10:41] == pytest.approx([LR] * 31)
    assert seen[10] > seen[9]
    assert all(a > b for a, b in itertools.pairwise(seen[40:51]))
    assert seen[STEPS:] == pytest.approx([LR * FLOOR] * 5)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_without_warmup_it_begins_at_the_peak(model, kind):
    assert rates(model, schedule=kind, warmup=0)[0] == pytest.approx(LR)


def test_a_warmup_as_long_as_the_run(model):
    seen = rates(model, warmup=STEPS)
    assert seen[:STEPS] == pytest.approx([LR * step / STEPS for step in range(STEPS)])


def test_a_longer_one_is_refused(model):
    config = OptimizerConfig(warmup=STEPS + 1)
    optimizer = build_optimizer(model, config)
    with pytest.raises(ConfigError, match="warmup is 51 steps, but the run has 50"):
        build_schedule(optimizer, config, STEPS)


def test_weight_matrices_alone_decay(model):
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    decayed = {name for name, p in model.named_parameters() if decay[id(p)]}
    assert decayed == {"0.weight", "2.weight"}
    assert set(decay.values()) == {0.0, 0.3}


def test_every_setting_reaches_adamw(model):
    config = OptimizerConfig(lr=0.5, beta1=0.7, beta2=0.8, eps=1e-3)
    optimizer = build_optimizer(model, config)
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert group["lr"] == 0.5
        assert group["betas"] == (0.7, 0.8)
        assert group["eps"] == 1e-3
        assert group["fused"]
