"""StableAdamW against the paper's algorithm in float64, and against AdamW where both agree."""

import copy
import math

import pytest
import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.optim import StableAdamW

SETTINGS = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def reference(weight, grads, *, lr, betas, eps, weight_decay):
    """Algorithm 2 for one tensor, with its debiased betas, in float64."""
    (beta1, beta2), w = betas, weight.double()
    v, u = torch.zeros_like(w), torch.zeros_like(w)
    for t, grad in enumerate(grads, start=1):
        g = grad.double()
        b1 = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
        b2 = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
        v = b1 * v + (1 - b1) * g
        u = b2 * u + (1 - b2) * g * g
        rms = (g * g / u.clamp(min=eps**2)).mean().sqrt()
        rate = lr / max(1.0, float(rms))
        w = w - rate * weight_decay * w - rate * v / (u.sqrt() + eps)
    return w


def run(optimizer_class, weight, grads, **settings):
    p = nn.Parameter(weight.clone())
    optimizer = optimizer_class([p], **settings)
    for grad in grads:
        p.grad = grad.to(weight.dtype)
        optimizer.step()
    return p.detach()


def growing(generator, shape=(6, 5), steps=20):
    """Gradients that are suddenly ten times as large: the second moments are stale then."""
    grads = [torch.randn(shape, generator=generator) * 0.1 for _ in range(steps)]
    return [g * (10 if i >= steps // 2 else 1) for i, g in enumerate(grads)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", [{}, {"betas": (0.0, 0.9)}, {"weight_decay": 0.0}, {"eps": 0.1}])
def test_matches_the_paper(generator, dtype, change):
    settings = {**SETTINGS, **change}
    weight, grads = torch.randn(6, 5, generator=generator).to(dtype), growing(generator)

    result = run(StableAdamW, weight, grads, **settings)

    expected = reference(weight, grads, **settings).to(dtype)
    torch.testing.assert_close(result, expected, rtol=2e-6, atol=2e-6)


def test_each_tensor_is_bounded_by_itself(generator):
    calm = [torch.full((3, 3), 0.1)] * 20
    wild = growing(generator, (3, 3))
    a, b = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    optimizer = StableAdamW([a, b], **SETTINGS)
    for a.grad, b.grad in zip(calm, wild, strict=True):
        optimizer.step()

    torch.testing.assert_close(a.detach(), run(StableAdamW, torch.ones(3, 3), calm, **SETTINGS))
    torch.testing.assert_close(b.detach(), run(StableAdamW, torch.ones(3, 3), wild, **SETTINGS))


def test_is_adamw_while_gradients_keep_their_size():
    """With constant gradients RMS is 1, so nothing is bounded."""
    weight, grads = torch.ones(4, 4), [torch.full((4, 4), 0.3)] * 30

    ours = run(StableAdamW, weight, grads, **SETTINGS)

    torch.testing.assert_close(ours, run(torch.optim.AdamW, weight, grads, **SETTINGS))


def test_steps_are_shorter_than_adams_when_moments_are_stale(generator):
    grads = growing(generator)
    zero = torch.zeros(6, 5)

    before, after = (run(StableAdamW, zero, grads[:n], **SETTINGS) for n in (10, 11))
    before_adam, after_adam = (
        run(torch.optim.AdamW, zero, grads[:n], **SETTINGS) for n in (10, 11)
    )

    assert (after - before).norm() < 0.5 * (after_adam - before_adam).norm()


def test_takes_over_the_state_of_adamw(generator):
    grads = growing(generator)
    p = nn.Parameter(torch.ones(6, 5))
    adamw = torch.optim.AdamW([p], **SETTINGS)
    for grad in grads[:5]:
        p.grad = grad
        adamw.step()
    q = nn.Parameter(p.detach().clone())
    ours = StableAdamW([q], **SETTINGS)

    ours.load_state_dict(copy.deepcopy(adamw.state_dict()))
    p.grad, q.grad = grads[4].clone(), grads[4].clone()  # of the size that the moments know
    adamw.step()
    ours.step()

    state = ours.state[q]
    assert state["step"] == 6
    torch.testing.assert_close(state["exp_avg_sq"], adamw.state[p]["exp_avg_sq"])


def test_resumes_bit_for_bit(generator):
    grads = growing(generator)
    p = nn.Parameter(torch.ones(6, 5))
    first = StableAdamW([p], **SETTINGS)
    for grad in grads[:10]:
        p.grad = grad
        first.step()
    q = nn.Parameter(p.detach().clone())
    second = StableAdamW([q], **SETTINGS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for grad in grads[10:]:
        p.grad, q.grad = grad, grad.clone()
        first.step()
        second.step()

    assert torch.equal(p, q)


def test_learns(generator):
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.randn(64, 4, generator=generator)
    optimizer = StableAdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(200):
        loss = nn.functional.mse_loss(model(x), x.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.01 * losses[0]


def test_odd_parameters(generator):
    """No gradient, no elements, a complex one, half precision, a scalar."""
    params = [
        nn.Parameter(torch.ones(3)),
        nn.Parameter(torch.ones(0, 3)),
        nn.Parameter(torch.ones(3, dtype=torch.complex64)),
        nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
        nn.Parameter(torch.ones(())),
    ]
    optimizer = StableAdamW(params, lr=0.1)
    for p in params[1:]:
        p.grad = torch.ones_like(p)

    optimizer.step()

    assert torch.equal(params[0], torch.ones(3))
    for p in params[2:]:
        torch.testing.assert_close(
            p.detach().real.float(), torch.full(p.shape, 0.9), atol=3e-3, rtol=0
        )


def test_nobody_waits_for_the_device(generator, no_host_sync):
    p = nn.Parameter(torch.ones(4, 4))
    p.grad = torch.randn(4, 4, generator=generator)
    optimizer = StableAdamW([p])
    with no_host_sync():
        optimizer.step()
        optimizer.step()


def test_a_closure_is_called_with_gradients_on():
    p = nn.Parameter(torch.ones(2))
    optimizer = StableAdamW([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert (p < 1).all()


def test_a_sparse_gradient_is_refused_before_any_change():
    dense, table = nn.Parameter(torch.ones(2)), nn.Embedding(4, 2, sparse=True)
    optimizer = StableAdamW([dense, table.weight])
    dense.grad = torch.ones(2)
    table(torch.tensor([1])).sum().backward()

    with pytest.raises(ConfigError, match="needs dense gradients"):
        optimizer.step()

    assert torch.equal(dense, torch.ones(2))
    assert not optimizer.state


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"weight_decay": -0.1},
        {"eps": 0.0},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
    ],
)
def test_bad_settings_are_refused(bad):
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ConfigError, match=next(iter(bad))):
        StableAdamW([p], **bad)
    with pytest.raises(ConfigError, match=next(iter(bad))):
        StableAdamW([{"params": [p], **bad}])
