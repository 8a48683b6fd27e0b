"""Which examples of a bad batch are at fault."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.checkpoint import random_state
from trimtab.guard import MicroStep, captured, freeze
from trimtab.guard._rows import suspect_rows

SIZE = 64


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    return net


def make(model, spoil):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(SIZE, 4, generator=draw)
    y = x.sum(1, keepdim=True)
    spoil(x, y)
    frozen = freeze(lambda: functional.mse_loss(model(x), y))
    micro = MicroStep(frozen, 1.0, SIZE, random_state(), batch=captured(frozen))
    return micro, (x, y)


def spoil_rows(rows, value, *, labels=False):
    def spoil(x, y):
        for row in rows:
            (y if labels else x)[row] = value

    return spoil


def far(loss):
    return loss > 100


@pytest.mark.parametrize("rows", [[0], [63], [17], [3, 40], [5, 6, 7]])
@pytest.mark.parametrize(
    ("value", "labels"), [(torch.nan, False), (torch.inf, False), (1e3, True), (1e9, True)]
)
def test_names_the_rows(model, rows, value, labels):
    micro, _ = make(model, spoil_rows(rows, value, labels=labels))
    found = suspect_rows(model, micro, far)
    assert [row for row, _ in found] == rows
    assert all(not loss <= 100 for _, loss in found)


def test_a_batch_that_is_bad_as_a_whole_names_none(model):
    micro, _ = make(model, lambda x, y: y.mul_(1e4))
    assert suspect_rows(model, micro, far) == []


def test_a_good_batch_names_none(model):
    micro, _ = make(model, lambda *_: None)
    assert suspect_rows(model, micro, far) == []


def test_nothing_is_changed(model):
    micro, (x, y) = make(model, spoil_rows([9], torch.nan))
    before = [x.clone(), y.clone(), *(t.clone() for t in model.state_dict().values())]
    model[2].eval()
    random = torch.get_rng_state()
    suspect_rows(model, micro, far)
    after = [x, y, *model.state_dict().values()]
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert not model[2].training
    assert micro.compute().isnan()  # it can still be replayed


def test_a_loss_that_wants_the_whole_batch_names_none(model):
    x = torch.randn(SIZE, 4)
    x[3] = torch.nan
    whole = torch.ones(SIZE, 1)

    def loss():
        return (model(x) - whole.view(8, 8).reshape(-1, 1)[: len(x)]).mean()

    micro = MicroStep(freeze(loss), 1.0, SIZE, random_state(), batch={"x": x, "whole": whole})
    assert suspect_rows(model, micro, far) == []


@pytest.mark.parametrize("batch", [None, {}, {"x": torch.ones(3), "y": torch.ones(4)}, (1, "a")])
def test_a_batch_without_rows_names_none(model, batch):
    micro = MicroStep(lambda: torch.tensor(torch.nan), 1.0, 1, random_state(), batch=batch)
    assert suspect_rows(model, micro, far) == []
