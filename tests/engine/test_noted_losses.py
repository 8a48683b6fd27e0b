import types

import numpy as np
import torch
from tests.engine.conftest import (
    fill,
    step_once,
    watched,
)
from torch import nn

from trimtab.engine._noted_losses import LossTap, NotedLosses


def test_the_loss_that_a_model_returns_is_seen():
    class Whole(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.inner, self.form = nn.Linear(3, 1), form

        def forward(self, x):
            return self.form(self.inner(x).square().mean())

    class Output:
        def __init__(self, loss):
            self.loss = loss

    for form in (lambda loss: {"loss": loss}, Output):
        model = fill(Whole(form))
        optimizer, trim = watched(model)
        output = model(torch.ones(2, 3))
        loss = output["loss"] if isinstance(output, dict) else output.loss
        loss.backward()
        model.eval()
        model(torch.ones(2, 3) * 100)
        optimizer.step()
        assert trim.history[-1].values["loss"] == loss.item()
        trim.detach()


def test_it_is_not_compulsory_and_passes_through():
    model = nn.Linear(3, 1)
    optimizer, trim = watched(model)
    step_once(model, optimizer, torch.ones(2, 3))
    assert np.isnan(trim.history[-1].values["loss"])
    loss = torch.ones(2, 2)
    assert trim.loss(loss) is loss
    trim.detach()


def test_the_mean_of_those_since_the_last_step_is_taken():
    recorder = types.SimpleNamespace(at_once=True, device=torch.device("cpu"))
    losses = NotedLosses(recorder)
    for value in (1.0, 2.0, 6.0):
        losses.add(torch.tensor(value))
    assert losses.any
    assert losses.take().item() == 3.0
    assert not losses.any
    assert losses.take().isnan()


def test_what_is_no_loss_of_training_is_none():
    recorder = types.SimpleNamespace(at_once=True, device=torch.device("cpu"))
    losses = NotedLosses(recorder)
    losses.add(torch.ones(2))
    losses.add("a loss")
    with torch.no_grad():
        losses.add(torch.tensor(1.0))
    assert not losses.any


def test_the_tap_is_silent_while_steps_are_made_again():
    noted, replaying = [], [True]
    tap = LossTap(noted.append, lambda: replaying[0])
    output = {"loss": torch.ones((), requires_grad=True)}
    tap(nn.Linear(1, 1), (), output)
    replaying[0] = False
    tap(nn.Linear(1, 1), (), output)
    tap(nn.Linear(1, 1).eval(), (), output)
    assert noted == [output["loss"]]
