"""Optimizers and loops for the tests of schedules."""

import pytest
import torch
from torch import nn

PEAK = 3e-4
ENDLESS = ("inverse_sqrt", "warmup_constant")


@pytest.fixture(scope="session")
def make_optimizer():
    """An optimizer with one group, of two weights, for each learning rate."""

    def make(*lrs, cls=torch.optim.SGD, **options):
        lrs = lrs or (PEAK,)
        groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": lr} for lr in lrs]
        return cls(groups, lr=lrs[0], **options)

    return make


@pytest.fixture(scope="session")
def rates():
    """Learning rates of the first group, before each step of a loop."""

    def run(scheduler, num_steps):
        seen = []
        for _ in range(num_steps):
            seen.append(float(scheduler.optimizer.param_groups[0]["lr"]))
            scheduler.optimizer.step()
            scheduler.step()
        return seen

    return run


@pytest.fixture(scope="session")
def build():
    """A schedule by steps, whether it has an end or not."""

    def build(builder, optimizer, warmup=5, total=20, **options):
        if builder.__name__ not in ENDLESS:
            options["total_steps"] = total
        return builder(optimizer, warmup_steps=warmup, **options)

    return build
