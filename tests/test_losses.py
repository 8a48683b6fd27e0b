"""Losses against float64 formulas and PyTorch's own functions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from trimtab.errors import ConfigError, StateError
from trimtab.losses import cross_entropy, gradient_penalty, normalize_advantages, z_loss

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def reference(logits, targets, smoothing, z_weight, ignore=-100):
    """Return the loss in float64, one position at a time."""
    rows, labels = logits.double().reshape(-1, logits.shape[-1]), targets.reshape(-1)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, label in zip(rows, labels, strict=True):
        if label == ignore:
            continue
        log_z = row.exp().sum().log()
        target = torch.full_like(row, smoothing / len(row))
        target[label] += 1 - smoothing
        total = total + (target * (log_z - row)).sum() + z_weight * log_z**2
        count += 1
    return total / max(1, count)


@pytest.fixture
def batch(generator):
    """Logits (3, 5, 7) and targets (3, 5), four of them ignored."""
    logits = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(7, (3, 5), generator=generator)
    targets[0, 1:5] = -100
    return logits, targets


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_weight", [0.0, 1e-2])
def test_cross_entropy_and_its_gradient(batch, dtype, smoothing, z_weight, no_host_sync):
    logits, targets = batch
    logits = logits.to(dtype).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    expected = reference(exact, targets, smoothing, z_weight)
    expected.backward()

    with no_host_sync():
        loss = cross_entropy(logits, targets, label_smoothing=smoothing, z_loss=z_weight)
        loss.backward()

    wide = dtype if dtype == torch.float64 else torch.float32
    assert loss.dtype == wide
    assert loss.shape == ()
    assert loss.item() == pytest.approx(
        expected.item(), rel=1e-12 if wide == torch.float64 else 1e-5
    )
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(logits.grad, exact.grad.to(dtype))
    assert (logits.grad[targets == -100] == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_pytorch(batch, smoothing):
    logits, targets = batch[0].float(), batch[1]

    expected = functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing
    )

    torch.testing.assert_close(cross_entropy(logits, targets, label_smoothing=smoothing), expected)


def test_classification_and_other_shapes(batch):
    logits, targets = batch
    flat = cross_entropy(logits, targets, z_loss=0.1)

    torch.testing.assert_close(
        cross_entropy(logits.flatten(0, 1), targets.flatten(), z_loss=0.1), flat
    )
    torch.testing.assert_close(cross_entropy(logits[None], targets[None].int(), z_loss=0.1), flat)
    torch.testing.assert_close(cross_entropy(logits.transpose(0, 1), targets.T, z_loss=0.1), flat)
    one = cross_entropy(logits[1, 0], targets[1, 0])
    torch.testing.assert_close(one, functional.cross_entropy(logits[1, 0], targets[1, 0]))


def test_another_ignore_index(batch):
    logits, targets = batch

    masked = targets.masked_fill(targets == -100, 3)

    torch.testing.assert_close(
        cross_entropy(logits, masked, z_loss=0.1, ignore_index=3),
        reference(logits, masked, 0.0, 0.1, ignore=3),
    )


@pytest.mark.parametrize("z_weight", [0.0, 1e-2])
@pytest.mark.parametrize("num_positions", [0, 3])
def test_nothing_to_learn_from_is_zero(z_weight, num_positions):
    logits = torch.randn(num_positions, 4).requires_grad_()
    targets = torch.full((num_positions,), -100)

    loss = cross_entropy(logits, targets, z_loss=z_weight)
    loss.backward()

    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_ignored_positions_may_hold_anything(batch):
    logits, targets = batch
    poisoned = logits.clone()
    poisoned[0, 1] = math.nan
    poisoned[0, 2] = math.inf
    poisoned.requires_grad_()

    loss = cross_entropy(poisoned, targets, z_loss=0.1)

    assert loss == cross_entropy(logits, targets, z_loss=0.1)


def test_logits_far_from_zero():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)

    loss = cross_entropy(logits, torch.tensor([0, 0]), z_loss=1e-4)
    loss.backward()

    assert loss.item() == pytest.approx((2e4 + 2 * 1e-4 * 1e8) / 2)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_second_derivatives(batch, smoothing):
    logits = batch[0][:2, :2].clone().requires_grad_()

    def loss(x):
        return cross_entropy(x, batch[1][:2, :2], label_smoothing=smoothing, z_loss=0.1)

    assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradgradcheck(loss, logits)


@pytest.mark.parametrize("label", [7, -1])
@pytest.mark.parametrize("z_weight", [0.0, 1e-4])
def test_a_label_out_of_range_is_an_error_on_a_cpu(batch, label, z_weight):
    logits, targets = batch
    targets[2, 2] = label

    with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
        cross_entropy(logits, targets, z_loss=z_weight)


@pytest.mark.parametrize(
    ("logits", "targets", "options", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2).long(), {"z_loss": -1.0}, "z_loss must be finite and"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {"z_loss": math.nan}, "z_loss"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {"label_smoothing": 1.0}, "label_smoothing"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {"label_smoothing": math.nan}, "got nan"),
        (torch.zeros(2, 3), torch.zeros(3).long(), {}, r"integers of shape \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {}, "targets must be class indices.*float32"),
        (torch.zeros(2, 3), torch.zeros(2).bool(), {}, r"got torch\.bool"),
        (torch.zeros(2, 3).long(), torch.zeros(2).long(), {}, "logits must be floating-point"),
        (torch.zeros(2, 0), torch.zeros(2).long(), {}, "logits must be floating-point"),
        (torch.zeros(()), torch.zeros(()).long(), {}, "logits must be floating-point"),
    ],
)
def test_cross_entropy_refuses(logits, targets, options, message):
    with pytest.raises(ConfigError, match=message):
        cross_entropy(logits, targets, **options)


# z-loss


@pytest.mark.parametrize("dtype", DTYPES)
def test_z_loss(batch, dtype, no_host_sync):
    logits, targets = batch[0].to(dtype), batch[1]
    squares = logits.double().exp().sum(-1).log() ** 2
    mask = targets != -100

    with no_host_sync():
        everything, some = z_loss(logits, 0.5), z_loss(logits, mask=mask)

    assert everything.item() == pytest.approx(0.5 * squares.mean().item(), rel=1e-5)
    assert some.item() == pytest.approx(1e-4 * squares[mask].mean().item(), rel=1e-5)


def test_cross_entropy_has_the_same_z_loss(batch):
    logits, targets = batch

    both = cross_entropy(logits, targets, z_loss=0.3)

    expected = cross_entropy(logits, targets) + z_loss(logits, 0.3, mask=targets != -100)
    torch.testing.assert_close(both, expected)


def test_z_loss_gradient(batch):
    logits = batch[0][:2, :2].clone().requires_grad_()
    mask = torch.tensor([[True, False], [True, True]])

    assert torch.autograd.gradcheck(lambda x: z_loss(x, 0.1, mask=mask), logits)
    assert z_loss(logits, mask=torch.zeros(2, 2, dtype=torch.bool)).item() == 0
    assert z_loss(torch.zeros(0, 3)).item() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": torch.zeros(3).long()}, "logits must be floating-point"),
        ({"logits": torch.zeros(2, 3), "weight": math.inf}, "weight must be finite"),
        ({"logits": torch.zeros(2, 3), "mask": torch.ones(2)}, "mask must be boolean"),
        ({"logits": torch.zeros(2, 3), "mask": torch.ones(3).bool()}, r"of shape \(2,\)"),
    ],
)
def test_z_loss_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        z_loss(**arguments)


# Gradient penalty


def make_critic(generator, dtype=torch.float64):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    with torch.no_grad():
        for p in critic.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return critic


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_penalty(generator, dtype):
    critic = make_critic(generator, dtype)
    real, fake = (torch.randn(5, 3, 4, generator=generator).to(dtype) for _ in range(2))
    share = torch.rand(5, generator=torch.Generator().manual_seed(7)).to(dtype)

    penalty = gradient_penalty(
        critic, real, fake, weight=3.0, generator=torch.Generator().manual_seed(7)
    )
    penalty.backward()

    # The slope of w2 tanh(w1 x + b) with respect to x, by hand.
    exact = [p.detach().double().requires_grad_() for p in critic.parameters()]
    w1, b1, w2, _ = exact
    mixed = torch.stack(
        [s * r + (1 - s) * f for s, r, f in zip(share.double(), real, fake, strict=True)]
    ).flatten(1)
    slope = ((1 - torch.tanh(mixed.to(dtype).double() @ w1.T + b1) ** 2) * w2) @ w1
    expected = 3 * ((slope.square().sum(1).sqrt() - 1) ** 2).mean()
    expected.backward()
    rel = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.01}
    assert penalty.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert penalty.item() == pytest.approx(expected.item(), rel=rel[dtype])
    for p, e in zip(list(critic.parameters())[:3], exact[:3], strict=True):
        error = (p.grad.double() - e.grad).norm() / e.grad.norm()
        assert error < rel[dtype]


def test_gradient_penalty_with_a_slope_of_one_is_zero():
    penalty = gradient_penalty(lambda x: x[:, 0], torch.zeros(2, 4), torch.ones(2, 4))

    assert penalty.item() == 0


def test_gradient_penalty_where_the_slope_is_zero_has_a_finite_gradient(generator):
    critic = make_critic(generator)
    nn.init.zeros_(critic[3].weight)
    real, fake = (torch.randn(5, 3, 4, generator=generator).double() for _ in range(2))

    penalty = gradient_penalty(critic, real, fake)
    penalty.backward()

    assert penalty.item() == 10
    assert all(p.grad.isfinite().all() for p in critic.parameters() if p.grad is not None)


def test_gradient_penalty_leaves_generator_network_and_global_state_alone(generator):
    critic = make_critic(generator)
    fake = torch.randn(5, 3, 4, generator=generator).double().requires_grad_()
    before = torch.random.get_rng_state()

    gradient_penalty(critic, fake.detach() + 1, fake, generator=generator).backward()

    assert fake.grad is None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gradient_penalty_draws_one_share_for_each_example(generator):
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.sum(dim=(1, 2))

    gradient_penalty(critic, torch.ones(64, 3, 4), torch.zeros(64, 3, 4), generator=generator)

    shares = seen[0].flatten(1)
    assert (shares == shares[:, :1]).all()
    assert 0 <= shares.min() < 0.1 < 0.9 < shares.max() <= 1


def test_gradient_penalty_of_scores_by_patch(generator):
    conv = nn.Conv2d(1, 1, 3).double()
    real, fake = (torch.randn(2, 1, 6, 6, generator=generator).double() for _ in range(2))

    assert gradient_penalty(conv, real, fake).isfinite()


@pytest.mark.parametrize(
    ("real", "fake", "weight", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 3), 1.0, r"one shape.*got \(2, 3\) .* and \(3, 3\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3).double(), 1.0, "float64"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3).long(), 1.0, "floating-point"),
        (torch.zeros(0, 3), torch.zeros(0, 3), 1.0, "not empty"),
        (torch.zeros(2, 3), torch.zeros(2, 3), -1.0, "weight must be finite"),
    ],
)
def test_gradient_penalty_refuses(real, fake, weight, message):
    with pytest.raises(ConfigError, match=message):
        gradient_penalty(lambda x: x.sum(1), real, fake, weight=weight)


def test_gradient_penalty_needs_gradients():
    real, bias = torch.zeros(2, 3), torch.zeros(2, requires_grad=True)

    with torch.no_grad(), pytest.raises(StateError, match=r"outside no_grad\(\)"):
        gradient_penalty(lambda x: x.sum(1), real, real)
    with pytest.raises(StateError, match="does not detach"):
        gradient_penalty(lambda x: x.detach().sum(1), real, real)
    with pytest.raises(StateError, match="do not depend on the examples"):
        gradient_penalty(lambda x: bias * 2, real, real)


# Advantages


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalize_advantages(generator, dtype, no_host_sync):
    advantages = (torch.randn(8, 6, generator=generator) * 5 + 20).to(dtype).requires_grad_()
    mask = torch.rand(8, 6, generator=generator) < 0.7
    kept = advantages.detach().double()[mask]
    expected = (kept - kept.mean()) / (kept.var(correction=0).sqrt() + 1e-8)

    with no_host_sync():
        got = normalize_advantages(advantages, mask)

    assert got.dtype == dtype
    assert not got.requires_grad
    torch.testing.assert_close(got[mask], expected.to(dtype), atol=1e-4, rtol=1e-2)
    assert (got[~mask] == 0).all()


@given(st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=20))
def test_normalized_advantages_have_mean_0_and_std_1_or_are_0(values):
    got = normalize_advantages(torch.tensor(values) / 100).double()

    assert abs(got.mean()) < 1e-5
    assert (got == 0).all() or got.std(correction=0).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e5, 1e-20, 3e7])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_advantages_become_zero(value, size, dtype):
    advantages = torch.full((size,), value).clamp(-6e4, 6e4).to(dtype)

    assert (normalize_advantages(advantages) == 0).all()


def test_masked_advantages_may_hold_anything():
    advantages = torch.tensor([1.0, math.nan, 3.0, math.inf])
    mask = torch.tensor([True, False, True, False])

    assert normalize_advantages(advantages, mask).tolist() == [-1, 0, 1, 0]
    assert normalize_advantages(advantages, ~torch.ones(4).bool()).tolist() == [0, 0, 0, 0]


def test_advantages_that_are_not_finite_are_not_hidden():
    assert normalize_advantages(torch.tensor([1.0, math.nan, 3.0])).isnan().all()


def test_whole_advantages():
    assert normalize_advantages(torch.tensor([1, 3])).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.ones(2).bool()}, r"mask must be boolean, of shape \(3,\)"),
        ({"mask": torch.ones(3)}, "mask must be boolean"),
        ({"eps": -1.0}, "eps must be finite"),
        ({"eps": math.nan}, "eps must be finite"),
    ],
)
def test_normalize_advantages_refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        normalize_advantages(torch.ones(3), **options)
