"""Adversarial and reinforcement learning in a few lines, with what can be set wrongly."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.data import Batches, digits
from faults.models import mlp
from faults.registry import Setup


class Adversaries(nn.Module):
    """A generator of points and what tells them from real ones."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.generator = mlp([8, width, 2])
        self.discriminator = mlp([2, width, width, 1], lambda: nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.discriminator(x)


def adversarial(
    g: torch.Generator,
    *,
    saturating: bool = False,
    rates: tuple[float, float] = (1e-3, 1e-3),
    generator_bias: float = 0.0,
    width: int = 32,
) -> Setup:
    """Return a GAN on points around a ring; the loss is the discriminator's."""
    angle = torch.rand(1024, 1, generator=g) * 6.2832
    radius = 1 + 0.1 * torch.randn(1024, 1, generator=g)
    real = torch.cat([angle.cos(), angle.sin()], 1) * radius
    model = Adversaries(width)
    nn.init.constant_(model.generator[-1].bias, generator_bias)
    optimizer = torch.optim.Adam(
        [
            {"params": model.generator.parameters(), "lr": rates[0]},
            {"params": model.discriminator.parameters(), "lr": rates[1]},
        ],
        betas=(0.5, 0.999),
    )
    bce = functional.binary_cross_entropy_with_logits

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        fake = model.generator(torch.randn(len(x), 8))
        on_fake = model.discriminator(fake.detach())
        loss = loss_fn(model(x), y) + loss_fn(on_fake, torch.zeros_like(y))
        loss.backward()
        for p in model.discriminator.parameters():
            p.requires_grad_(requires_grad=False)
        judged = model.discriminator(fake)
        aim = -bce(judged, torch.zeros_like(y)) if saturating else bce(judged, torch.ones_like(y))
        aim.backward()
        for p in model.discriminator.parameters():
            p.requires_grad_(requires_grad=True)
        optimizer.step()
        return loss

    def score(model: Any) -> float:
        made = model.generator(torch.randn(512, 8, generator=torch.Generator().manual_seed(0)))
        return ((made.mean(0) - real.mean(0)).norm() + (made.std(0) - real.std(0)).norm()).item()

    batches = Batches(real, torch.ones(1024, 1), 64, g)
    return Setup(
        model=model,
        optimizer=optimizer,
        loss_fn=bce,
        batches=batches,
        train_step=step,
        score=score,
    )


def bandit(
    g: torch.Generator,
    optimizer: Callable[..., Any],
    lr: float,
    *,
    reward: float = 1.0,
    sign: float = 1.0,
    baseline: bool = False,
) -> Setup:
    """Return REINFORCE on digits: an action a digit, rewarded where it is the right one."""
    task = digits()
    model = mlp([64, 64, 10])
    mean = torch.zeros(())

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        policy = torch.distributions.Categorical(logits=model(x))
        action = policy.sample()
        returns = (action == y).float() * reward
        advantage = returns - mean if baseline else returns
        loss = loss_fn(policy.log_prob(action), advantage) * sign
        loss.backward()
        optimizer.step()
        mean.lerp_(returns.mean(), 0.05)
        return loss

    def policy_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
        return -(log_prob * advantage).mean()

    return Setup(
        model=model,
        optimizer=optimizer(model, lr),
        loss_fn=policy_loss,
        batches=task.batches(64, g),
        train_step=step,
        score=task.score,
    )


def _values(places: int, reward: float, discount: float) -> Tensor:
    """Return what each of two moves is worth at each place."""
    values = torch.zeros(places, 2)
    here = torch.arange(places)
    left, right = (here - 1).clamp(min=0), (here + 1).clamp(max=places - 1)
    for _ in range(300):
        best = values.max(1).values
        gained = (right == places - 1).float() * reward
        values = torch.stack([discount * best[left], gained + discount * best[right]], 1)
    return values


def chain(
    g: torch.Generator,
    optimizer: Callable[..., Any],
    lr: float,
    *,
    reward: float = 1.0,
    discount: float = 0.9,
    refresh: int = 10,
) -> Setup:
    """Return Q-learning from stored moves on a chain of eight places, rewarded at its end."""
    places = 8
    here = torch.randint(places, (2048,), generator=g)
    right = torch.randint(2, (2048,), generator=g)
    there = (here + 2 * right - 1).clamp(0, places - 1)
    gained = ((there == places - 1) & (right == 1)).float() * reward
    x = functional.one_hot(here, places).float()
    y = torch.stack([right.float(), gained, there.float()], 1)
    truth = _values(places, reward, min(discount, 0.9))
    model, target = mlp([places, 32, 2]), mlp([places, 32, 2])
    calls = iter(range(10**9))

    def loss(values: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            if next(calls) % refresh == 0:
                target.load_state_dict(model.state_dict())
            ahead = target(functional.one_hot(y[:, 2].long(), places).float()).max(1).values
        taken = values.gather(1, y[:, :1].long()).squeeze(1)
        return functional.mse_loss(taken, y[:, 1] + discount * ahead)

    def score(model: Any) -> float:
        return ((model(torch.eye(places)) - truth).square().mean() / truth.var()).item()

    return Setup(
        model=model,
        optimizer=optimizer(model, lr),
        loss_fn=loss,
        batches=Batches(x, y, 64, g),
        score=score,
    )
