"""Sharpness, limit and warmup of a set-up."""

import pytest
import torch
from torch import nn

from trimtab.optim import warmup_cosine
from trimtab.preflight._curvature import measure_curvature, suggest_warmup
from trimtab.preflight._preflight import preflight


def quadratic(lr, **options):
    """A linear regression whose Hessian is 2 x^T x / n."""
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **options)
    return model, optimizer, nn.MSELoss(), (x, torch.ones(2, 1))


def test_limit_of_gradient_descent_is_exact(make_subject):
    found = measure_curvature(make_subject(*quadratic(0.1)))

    assert found.sharpness == pytest.approx(4.0, rel=1e-4)
    assert found.largest_stable_lr == pytest.approx(0.5, rel=1e-4)
    assert found.margin == pytest.approx(5.0, rel=1e-4)
    assert found.warmup_steps == 0
    assert not found.preconditioned


@pytest.mark.parametrize("ratio", [0.95, 1.05])
def test_limit_divides_runs_that_converge_from_those_that_do_not(make_subject, ratio):
    limit = measure_curvature(make_subject(*quadratic(0.1))).largest_stable_lr
    model, optimizer, loss_fn, (x, y) = quadratic(ratio * limit)

    for _ in range(200):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()

    assert (float(loss.detach()) < 1e-3) == (ratio < 1)


def test_schedule_sets_first_and_peak(make_subject):
    model, optimizer, loss_fn, batch = quadratic(2.0)
    scheduler = warmup_cosine(optimizer, 10, 100)

    found = measure_curvature(make_subject(model, optimizer, loss_fn, batch, scheduler=scheduler))

    assert found.lr == 0
    assert found.peak_lr == 2.0
    assert found.margin == pytest.approx(0.25, rel=1e-4)
    assert found.warmup_steps == 0


def test_moments_come_from_the_noise_of_the_batch(make_subject, classes):
    model = nn.Linear(8, 3)
    optimizer = torch.optim.Adam(model.parameters())

    found = measure_curvature(make_subject(model, optimizer, nn.CrossEntropyLoss(), classes))

    assert found.preconditioned
    assert 0.01 < found.largest_stable_lr < 10


def test_warmup_is_suggested_for_adam_above_the_limit_only():
    params = [nn.Parameter(torch.ones(1))]

    assert suggest_warmup(0.9, torch.optim.Adam(params)) == 0
    assert suggest_warmup(3.0, torch.optim.SGD(params, lr=0.1)) == 0
    assert suggest_warmup(3.0, torch.optim.Adam(params, betas=(0.9, 0.99))) == 200


def test_says_what_it_measured():
    result = preflight(*quadratic(0.1), curvature=True)

    assert str(result.curvature) == (
        "curvature: sharpness 4, largest stable learning rate 0.5, highest one planned 0.1 "
        "(margin 5)"
    )
    assert str(result.curvature) in str(result)


def test_an_unknown_optimizer_becomes_a_note(classes):
    model = nn.Linear(8, 3)

    result = preflight(
        model, torch.optim.Rprop(model.parameters()), nn.CrossEntropyLoss(), classes, curvature=True
    )

    assert result.curvature is None
    assert "largest stable learning rate of Rprop is not known" in result.notes[0]
