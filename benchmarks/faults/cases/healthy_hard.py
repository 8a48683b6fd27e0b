"""Healthy runs that look ill: sparse, noisy, negative, flat, imbalanced, odd in their inputs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faults.common import adam, adamw, on_digits, program, sgd
from faults.data import Task, cancer, class_score, diabetes, digits, parity, table, waves
from faults.models import mlp
from faults.registry import Setup, case


@case("noisy-labels", kind="mlp", part="tune", source="a fifth of the labels drawn at random")
def noisy(g: torch.Generator) -> Setup:
    task = digits()
    wrong = torch.rand(len(task.y), generator=g) < 0.2
    guess = torch.randint(10, task.y.shape, generator=g)
    task.y = torch.where(wrong, guess, task.y)
    model = mlp([64, 64, 10])
    return program(task, g, model, adam(model))


@case("imbalanced", kind="binary", part="report", source="one class in twenty")
def imbalanced(g: torch.Generator) -> Setup:
    task = digits()
    rare = (task.y == 3).nonzero().squeeze(1)[:45]
    rest = (task.y != 3).nonzero().squeeze(1)[:855]
    rows = torch.cat([rare, rest])
    x, y = task.x[rows], (task.y[rows] == 3).long()
    model = mlp([64, 48, 2])
    return program(Task(x, y, class_score(x, y)), g, model, adam(model))


@case("parity-plateau", kind="mlp", part="tune", source="Barak et al. 2022: hidden progress")
def plateau(g: torch.Generator) -> Setup:
    model = mlp([12, 128, 2])
    return program(parity(g, bits=2), g, model, adam(model, 5e-3))


@case("parity-three-bits", kind="mlp", part="report", source="Barak et al. 2022: hidden progress")
def three_bits(g: torch.Generator) -> Setup:
    model = mlp([12, 256, 2])
    return program(parity(g, bits=3), g, model, adam(model, 1e-2), size=128)


class Experts(nn.Module):
    """One of four networks for each example, chosen by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(mlp([64, 32, 10]) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).softmax(1)
        best = share.argmax(1)
        out = torch.stack([e(x) for e in self.experts], 1)
        rows = torch.arange(len(x))
        return out[rows, best] * share[rows, best, None]


@case("mixture-of-experts", kind="mlp", part="tune", source="Fedus et al. 2021 (Switch), in small")
def experts(g: torch.Generator) -> Setup:
    model = Experts()
    return on_digits(g, model, adam(model, 2e-3))


class TopK(nn.Module):
    """Keeps the eight largest of each row."""

    def forward(self, x: Tensor) -> Tensor:
        kept = x.topk(8, 1)
        return torch.zeros_like(x).scatter(1, kept.indices, kept.values)


@case("top-k-sparse", kind="mlp", part="report", source="Makhzani & Frey 2014: k-sparse networks")
def sparse(g: torch.Generator) -> Setup:
    model = nn.Sequential(nn.Linear(64, 96), TopK(), nn.Linear(96, 10))
    return on_digits(g, model, adam(model, 2e-3))


@case("sparse-relu-l1", kind="autoencoder", part="tune", source="sparse coding with an L1 penalty")
def sparse_autoencoder(g: torch.Generator) -> Setup:
    task = digits()
    task.y = task.x
    encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
    model = nn.ModuleDict({"encoder": encoder, "decoder": nn.Linear(96, 64)})

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        code = model["encoder"](x)
        loss = loss_fn(model["decoder"](code), y) + 0.01 * code.mean()
        loss.backward()
        optimizer.step()
        return loss

    return program(task, g, model, adam(model), functional.mse_loss, train_step=step, score=None)


class Gaussian(nn.Module):
    """Says a mean and the logarithm of a deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp([4, 48, 48, 2], nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@case(
    "negative-likelihood", kind="regression", part="report", source="a loss that falls below zero"
)
def likelihood(g: torch.Generator) -> Setup:
    task = waves(g, noise=0.02, scale=0.2)
    model = Gaussian()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        mean, log = out[:, :1], out[:, 1:]
        return (0.5 * ((y - mean) * (-log).exp()).square() + log).mean()

    return program(task, g, model, adam(model, 3e-3), loss, score=None)


class Vae(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp([64, 48, 16])
        self.decoder = mlp([8, 48, 64])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + log.exp() * torch.randn_like(mean)), mean, log


@case("vae", kind="autoencoder", part="tune", source="Kingma & Welling 2014, arXiv:1312.6114")
def vae(g: torch.Generator) -> Setup:
    task = digits()
    task.y = task.x
    model = Vae()

    def loss(out: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        made, mean, log = out
        divergence = 0.5 * (mean.square() + (2 * log).exp() - 1 - 2 * log).sum(1)
        return (2 * (made - x).square().sum(1) + divergence).mean()

    return program(task, g, model, adam(model), loss, score=None)


class Tasks(nn.Module):
    """One body and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.digit, self.ink = nn.Linear(64, 10), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.digit(h), self.ink(h)


@case(
    "two-losses", kind="classification", part="report", source="Caruana 1997: several tasks at once"
)
def two_losses(g: torch.Generator) -> Setup:
    model = Tasks()

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        digit, ink = model(x)
        loss = loss_fn(digit, y) + 0.5 * functional.mse_loss(ink, x.mean(1, keepdim=True) * 4)
        loss.backward()
        optimizer.step()
        return loss

    return on_digits(g, model, adam(model), train_step=step, score=None)


@case("large-inputs-layernorm", kind="mlp", part="tune", source="inputs of 0 to 255, a norm first")
def large_inputs(g: torch.Generator) -> Setup:
    model = nn.Sequential(nn.LayerNorm(64), *mlp([64, 64, 10]))
    return program(digits(pixels="raw"), g, model, adam(model))


@case(
    "raw-table-batchnorm", kind="binary", part="report", source="unlike scales, a BatchNorm first"
)
def raw_table(g: torch.Generator) -> Setup:
    model = nn.Sequential(nn.BatchNorm1d(30), *mlp([30, 32, 1]))
    loss = functional.binary_cross_entropy_with_logits
    return program(cancer(raw=True), g, model, adam(model, 3e-3), loss)


@case("unit-pixels", kind="mlp", part="tune", source="inputs of 0 to 1, as ToTensor makes them")
def unit_pixels(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return program(digits(pixels="unit"), g, model, adam(model, 2e-3))


@case(
    "iris-raw-centimetres", kind="classification", part="report", source="features between 0 and 8"
)
def raw_iris(g: torch.Generator) -> Setup:
    model = mlp([4, 32, 3])
    return program(table("iris", raw=True), g, model, adam(model, 5e-3), size=16)


@case("contrastive", kind="mlp", part="tune", source="Hadsell et al. 2006: pairs, near and far")
def contrastive(g: torch.Generator) -> Setup:
    model = mlp([64, 48, 16])

    def loss(out: Tensor, y: Tensor) -> Tensor:
        other = torch.roll(torch.arange(len(y)), 1)
        distance = (out - out[other]).square().sum(1).add(1e-8).sqrt()
        same = (y == y[other]).float()
        return (same * distance**2 + (1 - same) * functional.relu(2 - distance) ** 2).mean()

    return program(digits(), g, model, adam(model), loss, score=None)


@case("distillation", kind="classification", part="report", source="Hinton et al. 2015")
def distillation(g: torch.Generator) -> Setup:
    task = digits()
    teacher = mlp([64, 64, 10])
    teach = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for x, y in task.batches(32, torch.Generator().manual_seed(1)):
        teach.zero_grad()
        functional.cross_entropy(teacher(x), y).backward()
        teach.step()
    with torch.no_grad():
        soft = (teacher(task.x) / 2).softmax(1)
    model = mlp([64, 32, 10])

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return 4 * functional.kl_div((out / 2).log_softmax(1), y, reduction="batchmean")

    return program(Task(task.x, soft, task.score), g, model, adam(model, 2e-3), loss)


@case("small-effect", kind="regression", part="tune", source="a loss that can hardly fall: noise")
def small_effect(g: torch.Generator) -> Setup:
    model = mlp([10, 16, 1])
    return program(diabetes(), g, model, sgd(model, 0.01), functional.mse_loss, size=8)


@case("loss-of-small-numbers", kind="regression", part="report", source="targets in thousandths")
def small_numbers(g: torch.Generator) -> Setup:
    model = mlp([4, 64, 1], nn.Tanh)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return program(waves(g, scale=0.05), g, model, adam(model, 2e-3), functional.mse_loss)


@case(
    "zero-initialised-head", kind="mlp", part="tune", source="Goyal et al. 2017; a zero last layer"
)
def zero_head(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return on_digits(g, model, adamw(model))


@case(
    "many-classes-few-steps", kind="classification", part="report", source="a slow but steady start"
)
def many_classes(g: torch.Generator) -> Setup:
    centres = torch.randn(50, 24, generator=g)
    y = torch.randint(50, (2048,), generator=g)
    x = centres[y] + 0.7 * torch.randn(2048, 24, generator=g)
    model = mlp([24, 64, 50])
    return program(Task(x, y, class_score(x, y)), g, model, adam(model, 5e-4))
