"""Which steps the guard's policies leave out: of healthy runs, and of faults put into them.

Claims: over trainings that are sound, the default policy leaves out at most 0.1 % of the steps; it
sees at least 95 % of the bad batches that stand out at all, and those of a burst to the last.
Beside it: OLMo's rule as published, ZClip's z-score, and the z-score over moving averages that many
trainers have. All see the same numbers: runs are recorded once, without a guard, and a faulty batch
is measured at the weights of its step, as a policy sees it that has left out those before.

    python benchmarks/policies.py
"""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from measure import arguments, save
from torch import Tensor, nn

from trimtab.guard._policies import as_policy
from trimtab.guard._policy import Limits, Policy
from trimtab.nn import GPT
from trimtab.recipes._text import TextData, python_topics

Point = tuple[float, float]
"""Loss and gradient norm of a step."""
Batch = tuple[Tensor, Tensor]
FAULT_STEPS = (60, 150, 400, 700)
"""Steps at which faulty batches are measured; the first falls into the early descent."""
BURST = 5
AFTER_JUMP = 12
"""Batches measured after a jump of the learning rate; fewer than make a new level."""


@dataclass
class Trace:
    """A recorded run."""

    points: list[Point] = field(default_factory=list)
    faults: dict[tuple[str, int], list[Point]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A short training."""

    model: Callable[[torch.Generator], nn.Module]
    batch: Callable[[int, torch.Generator], Batch]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    loss: Callable[[Tensor, Tensor], Tensor] = lambda out, y: nn.functional.cross_entropy(
        out.flatten(0, -2), y.flatten()
    )
    rate: Callable[[int], float] = lambda step: 1.0
    steps: int = 1000
    garbage: bool = True
    """Whether random targets are worse than the true ones; not where nothing has been learnt."""


def record(run: Run, seed: int) -> Trace:
    """Train, and measure each step and what faults at some steps would look like."""
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        model = run.model(g)
    optimizer = run.optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, run.rate)
    trace = Trace()
    for step in range(run.steps):
        if step in FAULT_STEPS:
            trace.faults |= measure_faults(run, model, optimizer, step, seed)
        trace.points.append(measure(run, model, run.batch(step, g)))
        optimizer.step()
        schedule.step()
    return trace


def measure(run: Run, model: nn.Module, batch: Batch, *, scale: float = 1) -> Point:
    """Return loss and gradient norm, and leave the gradients."""
    model.zero_grad()
    loss = run.loss(model(batch[0]), batch[1]) * scale
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    return float(loss), float(norm)


def measure_faults(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, seed: int
) -> dict[tuple[str, int], list[Point]]:
    """Return what a policy would see of faults at this step, if it left them all out."""
    g = torch.Generator().manual_seed(seed * 1000 + step)
    twin = copy.deepcopy(model)
    batches = [run.batch(step + k, g) for k in range(AFTER_JUMP + 1)]
    found = {("x1000 batch", step): [measure(run, twin, batches[0], scale=1000)]}
    if run.garbage:
        bad = [(x, spoil(y, g)) for x, y in batches[:BURST]]
        found["garbage labels", step] = [measure(run, twin, b) for b in bad]
    measure(run, twin, batches[-1])
    states = copy.deepcopy(optimizer.state_dict())
    for group in states["param_groups"]:
        group["lr"] *= 100
    other = run.optimizer(twin)
    other.load_state_dict(states)
    other.step()
    found["after lr x100", step] = [measure(run, twin, b) for b in batches[:AFTER_JUMP]]
    return found


def spoil(targets: Tensor, g: torch.Generator) -> Tensor:
    """Return targets drawn at random from the range of the true ones."""
    if targets.is_floating_point():
        return torch.randn(targets.shape, generator=g) * 4
    return torch.randint(int(targets.max()) + 1, targets.shape, generator=g)


# The runs


@cache
def digits() -> Batch:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32), torch.tensor(data.target)


@cache
def diabetes() -> Batch:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    x, y = (torch.tensor(v, dtype=torch.float32) for v in (data.data, data.target))
    return x / x.std(0), ((y - y.mean()) / y.std())[:, None]


@cache
def text() -> TextData:
    return TextData.split(python_topics(), context=64, seed=0)


def pictures(size: int, *, first: int = 1797, noise: float = 0.0) -> Callable[..., Batch]:
    def batch(step: int, g: torch.Generator) -> Batch:
        x, y = digits()
        index = torch.randint(first, (size,), generator=g)
        wrong = torch.rand(size, generator=g) < noise
        return x[index], torch.where(wrong, torch.randint(10, (size,), generator=g), y[index])

    return batch


def harder_later(step: int, g: torch.Generator) -> Batch:
    """Pictures; half of the labels are wrong from step 500 on: a lasting change of level."""
    return pictures(32, noise=0.5 if step >= 500 else 0.0)(step, g)


def two_tasks(step: int, g: torch.Generator) -> Batch:
    """Pictures, and every 20th batch or so pictures upside down with other labels: harder."""
    x, y = pictures(32)(step, g)
    return (x.flip(1), 9 - y) if float(torch.rand((), generator=g)) < 0.05 else (x, y)


def rows(step: int, g: torch.Generator) -> Batch:
    x, y = diabetes()
    index = torch.randint(len(x), (8,), generator=g)
    return x[index], y[index]


def mlp(g: torch.Generator, inputs: int = 64, outputs: int = 10, width: int = 64) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, outputs),
    )  # fmt: skip


def cnn(g: torch.Generator) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


class LSTM(nn.Module):
    """Reads a picture row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


def gpt(g: torch.Generator) -> nn.Module:
    return GPT(256, dim=48, depth=2, num_heads=4, max_len=64, generator=g)


def adamw(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)


def sgd(lr: float, momentum: float = 0.9) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def warm(steps: int, total: int = 1000) -> Callable[[int], float]:
    def rate(step: int) -> float:
        cosine = 0.55 + 0.45 * math.cos(math.pi * min(step / total, 1))
        return min((step + 1) / steps, 1.0) * cosine

    return rate


def restarts(step: int) -> float:
    return 0.51 + 0.49 * math.cos(math.pi * (step % 250) / 250)


RUNS: Mapping[str, Run] = {
    "GPT, warm-up": Run(
        model=gpt, batch=lambda s, g: text().batch(s, 8), optimizer=adamw(3e-3), rate=warm(100)
    ),
    "GPT, batch 2, no warm-up": Run(
        model=gpt, batch=lambda s, g: text().batch(s, 2), optimizer=adamw(1e-3)
    ),
    "CNN": Run(model=cnn, batch=pictures(32), optimizer=adamw(3e-3), rate=warm(50)),
    "CNN, batch 4": Run(model=cnn, batch=pictures(4), optimizer=adamw(1e-3)),
    "CNN, restarts": Run(model=cnn, batch=pictures(32), optimizer=sgd(0.05), rate=restarts),
    "MLP, SGD, high rate": Run(model=mlp, batch=pictures(32), optimizer=sgd(0.1)),
    "MLP, batch 4": Run(model=mlp, batch=pictures(4), optimizer=sgd(0.02)),
    "MLP, learnt by heart": Run(
        model=mlp, batch=pictures(4, first=200), optimizer=adamw(1e-3), steps=2000
    ),
    "MLP, a fifth of labels wrong": Run(
        model=mlp, batch=pictures(32, noise=0.2), optimizer=adamw(1e-3), garbage=False
    ),
    "MLP, harder from 500": Run(
        model=mlp, batch=harder_later, optimizer=adamw(1e-3), garbage=False
    ),
    "MLP, two tasks": Run(model=mlp, batch=two_tasks, optimizer=adamw(1e-3), steps=2000),
    "LSTM": Run(model=lambda g: LSTM(), batch=pictures(16), optimizer=adamw(1e-2)),
    "regression": Run(
        model=lambda g: mlp(g, 10, 1), batch=rows, optimizer=adamw(1e-3),
        loss=nn.functional.mse_loss, garbage=False,
    ),
}  # fmt: skip
