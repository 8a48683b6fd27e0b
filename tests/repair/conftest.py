from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trimtab.engine import TrainingSetup


def mlp(*sizes, activation=nn.ReLU, end=None):
    layers = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    layers.pop()
    return nn.Sequential(*layers, *([end] if end else []))


@pytest.fixture
def task():
    """Twenty batches of a smooth regression, and of three classes that a line divides."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(20, 16, 4, generator=generator)
    y = (x[..., :1] - 0.5 * x[..., 1:2]).tanh()
    labels = (x[..., :3]).argmax(-1)
    return SimpleNamespace(
        x=x,
        y=y,
        labels=labels,
        pairs=list(zip(x, y, strict=True)),
        classes=list(zip(x, labels, strict=True)),
    )


@pytest.fixture
def make_setup(task):
    """A function that makes a setup; with `model` a function without arguments."""

    def make(
        model=lambda: mlp(4, 16, 1),
        optimizer=lambda params: torch.optim.Adam(params, lr=1e-2),
        loss_fn=None,
        batches=None,
        **fields,
    ):
        built = model()
        return TrainingSetup(
            built,
            optimizer(built.parameters()),
            loss_fn or nn.MSELoss(),
            task.pairs if batches is None else batches,
            **fields,
        )

    return make


@pytest.fixture
def make_build(make_setup):
    """A function that makes a build function, seeded."""

    def make(*args, after=None, **kwargs):
        def build(seed):
            with torch.random.fork_rng():
                torch.default_generator.manual_seed(seed)
                setup = make_setup(*args, **kwargs)
                if after is not None:
                    after(setup)
                return setup

        return build

    return make


@pytest.fixture
def train():
    """The loop that a user would write."""

    def run(setup, steps, seed=0):
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            done = 0
            while done < steps:
                for x, y in setup.batches:
                    setup.optimizer.zero_grad()
                    loss = setup.loss_fn(setup.model(x), y)
                    loss.backward()
                    setup.optimizer.step()
                    if setup.scheduler is not None:
                        setup.scheduler.step()
                    done += 1
                    if done == steps:
                        break
        return setup

    return run
