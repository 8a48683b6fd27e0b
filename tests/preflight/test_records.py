"""What modules did, against direct computations."""

import math

import pytest
import torch
from torch import nn

from trimtab.preflight._records import is_norm, is_weighted, recording, rows_of, variation


def test_measures_outputs_and_gradients(generator):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(32, 8, generator=generator)

    with recording(model) as records:
        loss = model(x).square().mean()
    loss.backward()

    first, relu, last = records
    hidden = model[0](x).detach()
    assert first.weighted
    assert not relu.weighted
    assert first.rms == pytest.approx(float(hidden.double().square().mean().sqrt()), rel=1e-5)
    deviation = hidden.double().var(0, correction=0).mean().sqrt()
    assert first.variation == pytest.approx(float(deviation), rel=1e-5)
    assert first.input_rms == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)
    expected = (2 * model(x) / (32 * 3)).norm()
    assert last.gradient == pytest.approx(float(expected.detach()), rel=1e-5)
    assert relu.dead == pytest.approx(float((relu_out(hidden) == 0).all(0).float().mean()))


def relu_out(hidden):
    return hidden.relu()


def test_counts_flat_ends():
    model = nn.Sequential(nn.Tanh())

    with recording(model) as (records):
        model(torch.tensor([[-9.0, 0.0, 1.0, 9.0]]))

    assert records[0].saturated == 0.5
    assert math.isnan(records[0].dead)


def test_first_call_counts_and_all_are_counted():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)

    with recording(model) as records:
        model(torch.randn(2, 4))

    assert [(r.name, r.calls) for r in records] == [("0", 2), ("1", 1)]


def test_hooks_are_removed_after_an_error():
    model = nn.Sequential(nn.Linear(4, 4))

    with pytest.raises(RuntimeError), recording(model):
        model(torch.randn(2, 5))

    assert not model[0]._forward_hooks


def test_kinds_of_modules():
    assert is_weighted(nn.LSTM(2, 2))
    assert not is_weighted(nn.Embedding(3, 2))
    assert is_norm(nn.SyncBatchNorm(3))
    assert is_norm(nn.RMSNorm(3))
    assert not is_norm(nn.Linear(2, 2))


def test_units_are_an_images_channels():
    assert rows_of(torch.zeros(2, 3, 4, 5)).shape == (40, 3)
    assert rows_of(torch.zeros(2, 7, 3)).shape == (14, 3)
    assert variation(torch.ones(1, 3)) == 0
