"""Sharpness and limits, against dense Hessians and runs."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError
from trimtab.nn import GPT
from trimtab.optim import StableAdamW
from trimtab.preflight._sharpness import (
    estimate_second_moments,
    held_parameters,
    sharpness,
)


@pytest.fixture
def problem(classes):
    x, y = classes
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    return model, lambda: functional.cross_entropy(model(x), y)


def dense_hessian(model, loss):
    params = list(model.parameters())
    grads = torch.autograd.grad(loss(), params, create_graph=True)
    flat = torch.cat([g.flatten() for g in grads])
    rows = [
        torch.cat([r.flatten() for r in torch.autograd.grad(v, params, retain_graph=True)])
        for v in flat
    ]
    return torch.stack(rows), flat.detach()


def test_matches_the_dense_hessian(problem):
    model, loss = problem
    hessian, _ = dense_hessian(model, loss)

    found = sharpness(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, tolerance=1e-4)

    top = float(torch.linalg.eigvalsh(hessian)[-1])
    assert found.value == pytest.approx(top, rel=1e-3)
    assert found.limit == pytest.approx(2 / top, rel=1e-3)
    assert found.ratio == pytest.approx(0.05 * top, rel=1e-3)


def test_matches_the_preconditioned_dense_hessian(problem):
    model, loss = problem
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-4)
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    optimizer.zero_grad()
    hessian, _ = dense_hessian(model, loss)
    moments = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in model.parameters()])
    roots = ((moments / (1 - 0.999**20)).sqrt() + 1e-4).rsqrt()

    found = sharpness(model, optimizer, loss, tolerance=1e-4)

    top = float(torch.linalg.eigvalsh(roots[:, None] * hessian * roots)[-1])
    assert found.preconditioned
    assert found.value == pytest.approx(top, rel=1e-2)
    assert found.limit == pytest.approx(38 / top, rel=1e-2)


@pytest.mark.parametrize(
    ("build", "factor"),
    [
        (lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9), 3.8),
        (lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True), 3.8 / 2.8),
        (lambda p: torch.optim.SGD(p, lr=1.0), 2.0),
    ],
)
@pytest.mark.parametrize("share", [0.97, 1.03])
def test_limits_divide_runs_on_a_bowl(build, factor, share):
    """The bowl has sharpness 1, so the limit is the factor itself."""
    model = nn.Linear(1, 1, bias=False)
    x = torch.ones(1, 1)
    optimizer = build(model.parameters())

    found = sharpness(model, optimizer, lambda: 0.5 * model(x).square().sum())

    assert found.limit == pytest.approx(factor, rel=1e-4)
    nn.init.ones_(model.weight)
    optimizer.param_groups[0]["lr"] = share * found.limit
    for _ in range(400):
        optimizer.zero_grad()
        (0.5 * model(x).square().sum()).backward()
        optimizer.step()
    assert (model.weight.abs().item() < 1) == (share < 1)


def test_groups_count_by_their_rates(problem):
    model, loss = problem
    slow = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}], lr=0.1
    )
    head = torch.optim.SGD(model[2].parameters(), lr=0.1)

    found, alone = (sharpness(model, o, loss, tolerance=1e-4).value for o in (slow, head))

    assert found == pytest.approx(alone, rel=1e-2)


def test_leaves_weights_and_gradients_alone(problem):
    model, loss = problem
    before = [p.detach().clone() for p in model.parameters()]

    sharpness(model, torch.optim.Adam(model.parameters()), loss)

    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_attention_and_recurrent_layers_have_second_derivatives(generator):
    tokens = torch.randint(20, (2, 8), generator=generator)
    gpt = GPT(20, dim=16, depth=1, num_heads=2, max_len=8)
    lstm = nn.LSTM(4, 4, batch_first=True)
    x = torch.randn(2, 8, 4, generator=generator)

    for model, loss in (
        (gpt, lambda: functional.cross_entropy(gpt(tokens).flatten(0, 1), tokens.flatten())),
        (lstm, lambda: lstm(x)[0].square().mean()),
    ):
        assert sharpness(model, torch.optim.SGD(model.parameters(), lr=0.1), loss).value > 0


def test_what_has_no_gradient_yet_does_not_count(classes):
    x, y = classes
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.zeros_(model[2].weight)

    found = sharpness(
        model,
        torch.optim.Adam(model.parameters()),
        lambda: functional.cross_entropy(model(x), y),
    )

    assert found.limit > 1e-3


def test_our_own_optimizer_is_known(problem):
    model, loss = problem

    assert sharpness(model, StableAdamW(model.parameters(), lr=1e-3), loss).preconditioned


def test_refuses_what_it_cannot_judge(problem):
    model, loss = problem

    with pytest.raises(ConfigError, match="largest stable learning rate of Rprop"):
        sharpness(model, torch.optim.Rprop(model.parameters()), loss)
    with pytest.raises(ConfigError, match="holds no trainable parameter of this model"):
        sharpness(model, torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), loss)


def test_second_moments_hold_signal_and_noise(generator):
    """The gradient of n parts has mean square m^2 + s^2 / n; the noise is counted twice."""
    weight = nn.Parameter(torch.zeros(10_000))
    noise = torch.randn(4, 10_000, generator=generator)
    closures = [lambda i=i: (weight * (0.5 + 2 * noise[i])).sum() for i in range(4)]

    (moment,) = estimate_second_moments(closures, [weight])

    assert float(moment.mean()) == pytest.approx(0.25 + 1 + 1, rel=0.1)


def test_held_parameters_are_trainable_and_the_models():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    other = nn.Parameter(torch.ones(1))

    held = held_parameters(model, torch.optim.SGD([*model.parameters(), other], lr=0.1))

    assert [id(p) for p in held] == [id(model.weight)]
