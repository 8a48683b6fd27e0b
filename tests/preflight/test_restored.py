"""Everything is put back, bit for bit."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.preflight._restored import (
    every_module,
    restored,
    shadow_optimizer,
    trial_parameters,
)


class Stateful(nn.Module):
    """Keeps state in every way that a module can."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.hidden = [nn.BatchNorm1d(4)]
        self.history: list[float] = []
        self.cache = {"calls": 0}
        self.plain = torch.zeros(2)
        self.draws = torch.Generator().manual_seed(1)
        self.count = 0

    def forward(self, x):
        self.count += 1
        self.cache["calls"] += 1
        self.history.append(1.0)
        self.plain.add_(1)
        self.last = x
        torch.rand(1, generator=self.draws)
        return self.hidden[0](self.norm(x))


def snapshot(model):
    return {
        "norm": {k: v.clone() for k, v in model.norm.state_dict().items()},
        "hidden": {k: v.clone() for k, v in model.hidden[0].state_dict().items()},
        "rest": (list(model.history), dict(model.cache), model.plain.tolist(), model.count),
        "draws": model.draws.get_state().tolist(),
        "modes": [m.training for m in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
    }


@pytest.mark.parametrize("fails", [False, True])
def test_modules_and_random_state(fails):
    model = Stateful()
    before, history = snapshot(model), model.history

    try:
        with restored(model):
            model.eval()
            model.train()
            model(torch.randn(8, 4))
            model.eval()
            random.random()
            np.random.rand()  # noqa: NPY002
            if fails:
                raise KeyError
    except KeyError:
        assert fails

    after = snapshot(model)
    assert str(after) == str(before)
    assert model.history is history
    assert not hasattr(model, "last")


def test_gradients_come_back_as_the_same_tensors():
    layer = nn.Linear(2, 2)
    kept = layer.weight.grad = torch.ones(2, 2)

    with restored(layer):
        layer.weight.grad = None
        layer(torch.randn(3, 2)).sum().backward()

    assert layer.weight.grad is kept
    assert layer.bias.grad is None
    assert bool((kept == 1).all())


def test_parameters_of_a_trial():
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()

    def fail():
        with trial_parameters(layer.parameters()):
            nn.init.zeros_(layer.weight)
            layer.weight.grad = torch.ones(2, 2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is None


def test_hidden_modules_are_found_once():
    model = Stateful()

    assert {id(m) for m in every_module(model, model)} == {
        id(model), id(model.norm), id(model.hidden[0]),
    }  # fmt: skip
    assert every_module(lambda x: x) == []


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_shadow_steps_like_the_original_which_stays_as_it_is(kind):
    a, b = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    ours, theirs = kind([a], lr=0.1), kind([b], lr=0.1)
    for p, optimizer in ((a, ours), (b, theirs)):
        p.grad = torch.tensor([0.3, 0.4])
        optimizer.step()
    calls = []
    ours.register_step_post_hook(lambda *_: calls.append(1))
    scheduler = torch.optim.lr_scheduler.StepLR(ours, 1)
    state = {k: str(v) for k, v in ours.state[a].items()}

    shadow = shadow_optimizer(ours)
    shadow.step()
    theirs.step()

    assert torch.equal(a, b)
    assert {k: str(v) for k, v in ours.state[a].items()} == state
    assert calls == []
    assert scheduler.last_epoch == 0
    assert ours.param_groups[0] is not shadow.param_groups[0]
