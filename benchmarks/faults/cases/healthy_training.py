"""Healthy runs with other optimizers, schedules, precisions and ways of training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from faults.cases.loop import scaled_and_clipped
from faults.cases.wiring import pretrained
from faults.common import adam, on_digits, program, sgd
from faults.data import Batches, diabetes, digits, table, waves
from faults.games import adversarial, bandit, chain
from faults.models import ResNet, cnn, mlp
from faults.registry import Setup, case


@case("mlp-adagrad", kind="mlp", part="tune", source="Duchi et al. 2011")
def adagrad(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, torch.optim.Adagrad(model.parameters(), lr=0.02))


class Lion(torch.optim.Optimizer):
    """The sign of a moving average (Chen et al. 2023, arXiv:2302.06675)."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.sub_((0.9 * m + 0.1 * p.grad).sign(), alpha=group["lr"])
                m.lerp_(p.grad, 0.01)
        return loss


@case("cnn-lion", kind="cnn", part="report", source="Chen et al. 2023, arXiv:2302.06675 (Lion)")
def lion(g: torch.Generator) -> Setup:
    model = cnn()
    return on_digits(g, model, Lion(model.parameters(), 3e-4), image=True)


@case("regression-lbfgs", kind="regression", part="tune", source="torch.optim.LBFGS's manual page")
def lbfgs(g: torch.Generator) -> Setup:
    task = waves(g, count=128)
    model = mlp([4, 16, 1], nn.Tanh)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=4)

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(closure)

    return program(task, g, model, optimizer, functional.mse_loss, size=128, train_step=step)


@case("cnn-warm-restarts", kind="cnn", part="report", source="Loshchilov & Hutter 2017 (SGDR)")
def restarts(g: torch.Generator) -> Setup:
    model = cnn(norm=False)
    optimizer = sgd(model, 0.05)
    schedule = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 50)
    return on_digits(g, model, optimizer, image=True, scheduler=schedule)


@case("mlp-one-cycle", kind="mlp", part="tune", source="Smith & Topin 2019, arXiv:1708.07120")
def one_cycle(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10], norm=nn.BatchNorm1d)
    optimizer = sgd(model, 0.01)
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=201)
    return on_digits(g, model, optimizer, scheduler=schedule)


@case("mlp-scaler", kind="mlp", part="report", source="PyTorch AMP recipe: unscale, then clip")
def scaler(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 64, 10])
    return on_digits(g, model, sgd(model, 0.05), train_step=scaled_and_clipped(1.0, unscale=True))


@case("cnn-fp16-scaler", kind="cnn", part="tune", source="PyTorch AMP recipe, fp16")
def fp16(g: torch.Generator) -> Setup:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    model = cnn(norm=False)
    return on_digits(g, model, adam(model), image=True, train_step=step)


@case("batch-of-four", kind="mlp", part="report", source="noise of small batches is no fault")
def tiny_batches(g: torch.Generator) -> Setup:
    model = mlp([64, 64, 10])
    return on_digits(g, model, sgd(model, 0.01), size=4)


@case("iris-full-batch", kind="classification", part="tune", source="full-batch gradient descent")
def full_batch(_: torch.Generator) -> Setup:
    task = table("iris")
    model = mlp([4, 16, 3], nn.Tanh)
    return Setup(
        model=model,
        optimizer=sgd(model, 0.1),
        loss_fn=functional.cross_entropy,
        batches=[(task.x, task.y)],
        score=task.score,
    )


@case("tiny-data-cycled", kind="classification", part="report", source="32 examples, many epochs")
def tiny_data(g: torch.Generator) -> Setup:
    task = table("iris")
    rows = torch.randperm(150, generator=g)[:32]
    task.x, task.y = task.x[rows], task.y[rows]
    model = mlp([4, 32, 3])
    return program(task, g, model, adam(model, 5e-3), size=8)


@case(
    "finetune-frozen", kind="finetuning", part="tune", source="PyTorch transfer-learning tutorial"
)
def frozen(g: torch.Generator) -> Setup:
    model = pretrained(ResNet(), image=True)
    for p in model.parameters():
        p.requires_grad_(requires_grad=False)
    model.head = nn.Linear(16, 10)
    return on_digits(g, model, adam(model.head, 1e-2), image=True)


@case("finetune-all", kind="finetuning", part="report", source="Howard & Ruder 2018: small rates")
def finetune_all(g: torch.Generator) -> Setup:
    model = pretrained(mlp([64, 64, 64, 10]))
    model[4] = nn.Linear(64, 10)
    return on_digits(g, model, adam(model, 1e-3))


@case("finetune-frozen-batchnorm", kind="finetuning", part="tune", source="detection fine-tuning")
def frozen_batchnorm(g: torch.Generator) -> Setup:
    model = pretrained(ResNet(), image=True)
    model.head = nn.Linear(16, 10)

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Any, y: Any) -> Tensor:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return on_digits(g, model, adam(model, 1e-3), image=True, train_step=step)


@case("converged", kind="mlp", part="report", source="a run that goes on after it has learnt all")
def converged(g: torch.Generator) -> Setup:
    model = mlp([64, 128, 10])
    optimizer = adam(model, 2e-3)
    batches = digits().batches(32, torch.Generator().manual_seed(3))
    for _ in range(12):
        for x, y in batches:
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return on_digits(g, model, optimizer)


@case("converged-regression", kind="regression", part="tune", source="a run at its noise floor")
def converged_regression(g: torch.Generator) -> Setup:
    model = nn.Sequential(nn.Linear(10, 1))
    optimizer = sgd(model, 0.01)
    batches = diabetes().batches(32, torch.Generator().manual_seed(3))
    for _ in range(40):
        for x, y in batches:
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return program(diabetes(), g, model, optimizer, functional.mse_loss)


@case("gan", kind="gan", part="report", source="Goodfellow et al. 2014: equilibrium near ln 4")
def gan(g: torch.Generator) -> Setup:
    return adversarial(g)


@case("reinforce", kind="rl", part="tune", source="Williams 1992: REINFORCE with a baseline")
def reinforce(g: torch.Generator) -> Setup:
    return bandit(g, adam, 1e-2, baseline=True)


@case("reinforce-no-baseline", kind="rl", part="report", source="Williams 1992: REINFORCE")
def reinforce_plain(g: torch.Generator) -> Setup:
    return bandit(g, adam, 5e-3)


@case("q-learning", kind="rl", part="tune", source="Mnih et al. 2015: a target network")
def q_learning(g: torch.Generator) -> Setup:
    return chain(g, adam, 3e-3)


@case(
    "critic-gradient-penalty", kind="gan", part="report", source="Gulrajani et al. 2017 (WGAN-GP)"
)
def critic(g: torch.Generator) -> Setup:
    real = torch.randn(1024, 2, generator=g) * 0.5 + 1.0
    model = mlp([2, 32, 32, 1], nn.LeakyReLU)

    def step(model: Any, optimizer: Any, loss_fn: Any, x: Tensor, _: Tensor) -> Tensor:
        optimizer.zero_grad()
        fake = torch.randn(len(x), 2) * 0.5 - 1.0
        mixed = torch.lerp(x, fake, torch.rand(len(x), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(model(mixed).sum(), mixed, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        loss = loss_fn(model(fake), model(x)) + 10 * penalty
        loss.backward()
        optimizer.step()
        return loss

    def distance(fake: Tensor, real: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    batches = _pairs(real, 64, g)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.9))
    return Setup(
        model=model, optimizer=optimizer, loss_fn=distance, batches=batches, train_step=step
    )


def _pairs(x: Tensor, size: int, g: torch.Generator) -> Any:
    return Batches(x, torch.ones(len(x), 1), size, g)
