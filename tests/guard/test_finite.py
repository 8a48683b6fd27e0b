"""Whether everything that training changes is finite."""

import pytest
import torch
from torch import nn

from trimtab.guard import LiveState
from trimtab.guard._finite import FiniteWatch, nonfinite


@pytest.fixture
def job():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_nonfinite_names_the_tensors():
    tensors = [
        torch.ones(3),
        torch.tensor([1.0, torch.nan]),
        torch.ones(2, dtype=torch.int64),
        torch.tensor(torch.inf, dtype=torch.bfloat16),
        torch.zeros(0),
        torch.tensor([-torch.inf], dtype=torch.float64),
        torch.tensor(3e38),
    ]
    assert nonfinite(tensors) == [1, 3, 5]
    assert nonfinite([]) == []


def test_what_is_infinite_from_the_beginning_is_meant_to_be(job):
    watch = FiniteWatch(LiveState(job[0], [job[1]]))
    assert not watch.has_broken()
    assert not watch.has_broken()


@pytest.mark.parametrize("place", ["weight", "buffer", "moment"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_becomes_so_is_seen(job, place, value):
    model, optimizer = job
    watch = FiniteWatch(LiveState(model, [optimizer]))
    assert not watch.has_broken()
    tensor = {
        "weight": model[0].weight,
        "buffer": model[1].running_var,
        "moment": optimizer.state[model[2].bias]["exp_avg_sq"],
    }[place]
    with torch.no_grad():
        tensor.view(-1)[0] = value
    assert watch.has_broken()
