import math

import pytest
import torch
from torch import nn

from trimtab.audit._gradients import (
    as_weighted_sum,
    condition,
    flat,
    gradient_of,
    own_gradients,
    relative_error,
    without_dropout,
)


@pytest.fixture
def parts(generator):
    return list(torch.randn(3, 50, generator=generator, dtype=torch.float64))


def test_a_gradient_is_that_of_float64(generator):
    model = nn.Linear(4, 1)
    x, y = torch.randn(8, 4, generator=generator), torch.randn(8, 1, generator=generator)
    before = [p.clone() for p in model.parameters()]

    exact = gradient_of(model, nn.MSELoss(), (x, y), torch.float64)
    own = gradient_of(model, nn.MSELoss(), (x, y))

    error = (x.double() @ model.weight.double().T + model.bias.double()) - y.double()
    wanted = torch.cat([(2 * error * x.double()).mean(0), (2 * error).mean(0)])
    torch.testing.assert_close(exact, wanted)
    assert 0 < relative_error(own, exact) < 1e-6
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_weights_are_found(parts):
    wanted = torch.tensor([0.5, -2.0, 1e-3], dtype=torch.float64)

    found = as_weighted_sum(torch.stack(parts, dim=1) @ wanted, [p.clone() for p in parts])

    torch.testing.assert_close(found.weights, wanted)
    assert found.error < 1e-12


def test_what_no_weights_explain_is_told(parts):
    rest = parts[2] - sum(
        (parts[2] @ q) * q for q in torch.linalg.qr(torch.stack(parts[:2], dim=1)).Q.T
    )
    vector = parts[0] + rest

    found = as_weighted_sum(vector, parts[:2])

    assert found.error == pytest.approx(float(rest.norm() / vector.norm()))
    assert found.weights.tolist() == pytest.approx([1, 0], abs=1e-9)


def test_nothing_at_all_has_no_error(parts):
    found = as_weighted_sum(torch.zeros(50, dtype=torch.float64), parts)

    assert (found.error, found.weights.tolist()) == (0, [0, 0, 0])


def test_condition(parts):
    eye = list(torch.eye(4, dtype=torch.float64))
    assert condition(eye) == pytest.approx(1)
    assert condition([eye[0], eye[0] + 1e-3 * eye[1]]) == pytest.approx(2e3, rel=0.01)
    assert condition([eye[0], eye[0]]) > 1e15 or condition([eye[0], eye[0]]) == math.inf


def test_missing_gradients_are_zeros():
    params = [torch.ones(2), torch.ones(1)]

    assert flat([None, torch.ones(1)], params).tolist() == [0, 0, 1]
    assert relative_error(torch.ones(2), torch.zeros(2)) == 0


def test_dropout_is_taken_out_of_a_copy():
    model = nn.Sequential(nn.Dropout(0.5), nn.MultiheadAttention(4, 2, dropout=0.3), nn.LSTM(4, 4))

    copy = without_dropout(model)

    assert (copy[0].p, copy[1].dropout, copy[2].dropout) == (0, 0, 0)
    assert (model[0].p, model[1].dropout) == (0.5, 0.3)
    assert copy.training


def test_the_scale_of_a_fused_optimizer_is_taken_off(make_params):
    params = make_params([(2,)])
    optimizer = torch.optim.AdamW(params, fused=True)
    plain = own_gradients(optimizer, params)
    optimizer.grad_scale = torch.tensor(4.0)

    torch.testing.assert_close(own_gradients(optimizer, params), plain / 4)
