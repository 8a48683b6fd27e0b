"""Runs to audit: sound ones, of which tests take a part away."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.audit import audit_accumulation, audit_resume
from trimtab.engine import TrainingSetup


class Positioned:
    """Batches that know where they are."""

    def __init__(self, data):
        self.data, self.next = data, 0

    def __iter__(self):
        while self.next < len(self.data):
            self.next += 1
            yield self.data[self.next - 1]
        self.next = 0

    def __len__(self):
        return len(self.data)

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def drawn(seed, count=7, examples=8):
    """Return batches that differ from each other, drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    xs = torch.randn(count, examples, 6, generator=generator)
    return [(x, x[:, :3].argmax(1)) for x in xs]


@pytest.fixture
def make_build():
    """Return a build function; what it is given takes the place of the usual parts."""

    def make(*layers, optimizer=None, schedule=True, batches=None, train_step=None):
        def build(seed):
            torch.default_generator.manual_seed(seed)
            middle = [layer() for layer in layers]
            model = nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 3))
            opt = (optimizer or (lambda p: torch.optim.AdamW(p, lr=0.01)))(model.parameters())
            scheduler = torch.optim.lr_scheduler.LinearLR(opt, total_iters=20)
            data = Positioned(drawn(5)) if batches is None else batches()
            step = None if train_step is None else train_step()
            loss_fn = nn.CrossEntropyLoss()
            return TrainingSetup(model, opt, loss_fn, data, scheduler if schedule else None, step)

        return build

    return make


def save_all(setup):
    """Return everything that a run of these depends on."""
    names = ("model", "optimizer", "scheduler", "batches")
    parts = {name: getattr(setup, name) for name in names}
    state = {k: p.state_dict() for k, p in parts.items() if hasattr(p, "state_dict")}
    state["random"] = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002 # users do
    return state


def load_all(setup, state):
    """Put all of it back, as far as it is there."""
    for name, value in state.items():
        if name != "random":
            getattr(setup, name).load_state_dict(value)
    if "random" in state:
        of_torch, of_numpy, of_python = state["random"]
        torch.set_rng_state(of_torch)
        np.random.set_state(of_numpy)  # noqa: NPY002 # likewise
        random.setstate(of_python)


@pytest.fixture
def resume():
    """Audit a run whose state is saved whole, less what is named."""

    def audit(build, *, without=(), save=save_all, load=load_all, **options):
        def save_most(setup):
            return {k: v for k, v in save(setup).items() if k not in without}

        return audit_resume(build, save=save_most, load=load, **options)

    return audit


@pytest.fixture
def accumulate():
    """Audit one optimizer step of micro-batches, made by a function."""

    def audit(body, build=None, **options):
        return audit_accumulation(build or built_wide, accumulate=body, **options)

    return audit


def built_wide(seed, *layers, loss_fn=None, optimizer=None):
    """Return a setup whose micro-batches can be told apart."""
    torch.default_generator.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), *layers, nn.Tanh(), nn.Linear(8, 3))
    opt = (optimizer or (lambda p: torch.optim.SGD(p, lr=0.1)))(model.parameters())
    return TrainingSetup(model, opt, loss_fn or nn.CrossEntropyLoss(), drawn(1, 3, 32))


@pytest.fixture(name="built_wide")
def built_wide_fixture():
    return built_wide


def by_share(setup, micro_batches, after_backward=None, before_step=None):
    """Accumulate as it should be, with something else in between where asked."""
    total = sum(len(x) for x, _ in micro_batches)
    setup.optimizer.zero_grad()
    for x, y in micro_batches:
        loss = setup.loss_fn(setup.model(x), y) * len(x) / total
        loss.backward()
        if after_backward is not None:
            after_backward(setup)
    if before_step is not None:
        before_step(setup)
    setup.optimizer.step()


@pytest.fixture(name="by_share")
def by_share_fixture():
    return by_share


@pytest.fixture(name="positioned")
def positioned_fixture():
    return Positioned


@pytest.fixture(name="drawn")
def drawn_fixture():
    return drawn


@pytest.fixture(name="whole_state")
def whole_state_fixture():
    """Functions that save and load everything."""
    return save_all, load_all
