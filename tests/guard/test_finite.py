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


@pytest.mark.parametrize("place", ["weight", "buffer"])
@pytest.mark.parametrize(("value", "broken"), [(3e33, True), (1e9, True), (1e7, False)])
def test_what_grows_beyond_measure_is_seen(job, place, value, broken):
    model, optimizer = job
    watch = FiniteWatch(LiveState(model, [optimizer]))
    assert not watch.has_broken()
    tensor = {"weight": model[0].weight, "buffer": model[1].running_var}[place]
    with torch.no_grad():
        tensor.view(-1)[0] = value
    assert watch.has_broken() is broken
    assert watch.has_broken() is broken  # and is not taken for sound at the next look
    watch.accept()
    assert not watch.has_broken()


def test_a_large_value_may_stay(job):
    model, optimizer = job
    with torch.no_grad():
        model[0].weight[0, 0] = 1e30
    watch = FiniteWatch(LiveState(model, [optimizer]))
    assert not watch.has_broken()
    with torch.no_grad():
        model[0].weight[0, 0] = 1e37
    assert not watch.has_broken()


def test_slow_growth_is_training(job):
    model, optimizer = job
    watch = FiniteWatch(LiveState(model, [optimizer]))
    for power in range(0, 36, 6):
        with torch.no_grad():
            model[0].weight[0, 0] = 10.0**power
        assert not watch.has_broken()
