"""The two trainings that faults are injected into: a small GPT on prose, a residual CNN on digits.

Each batch is a function of its index and the seed alone, so that runs can be compared step by step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from trimtab.nn import GPT
from trimtab.recipes._text import TextData, python_topics

STEPS: Final = 300
"""Batches of a run: about five seconds on a quiet core."""

MARK_TOKEN: Final = 255
"""A byte that no UTF-8 text has: it marks the sequences that `Outliers` acts on."""

MARK_PIXEL: Final = 9.0
"""A corner pixel beyond any real value, for the same purpose."""

WARMUP: Final = 20
"""Steps of warm-up, before a cosine to a twentieth."""


@dataclass(frozen=True)
class Task:
    """One training; with other settings it is one of the healthy variants."""

    name: str
    model: Callable[[int], nn.Module]
    """Builds the model from a seed."""
    optimizer: str
    """`"adamw"` or `"sgd"`."""
    lr: float
    batch_size: int
    data: Callable[[int, int, int], tuple[Tensor, Tensor]]
    """Returns the inputs and targets of a seed, an index and a batch size."""
    loss: Callable[[Tensor, Tensor], Tensor]
    held_out: Callable[[], list[tuple[Tensor, Tensor]]]
    warmup: int = WARMUP
    options: tuple[tuple[str, Any], ...] = ()
    """Further options of the optimizer."""

    def batch(self, seed: int, index: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a batch."""
        return self.data(seed, index, self.batch_size)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer over all of the model."""
        kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[self.optimizer]
        return kind(model.parameters(), lr=self.lr, **dict(self.options))  # type: ignore[operator]

    def lr_factor(self, step: int) -> float:
        """Return the learning rate of a step as a share of its peak: warm-up, then a cosine."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min((step - self.warmup) / (STEPS - self.warmup), 1.0)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))

    @torch.no_grad()
    def validate(self, model: nn.Module) -> float:
        """Return the mean loss on data never trained on, in evaluation mode and float32."""
        model.eval()
        losses = [float(self.loss(model(x), y)) for x, y in self.held_out()]
        model.train()
        return sum(losses) / len(losses)


def generator(*numbers: int) -> torch.Generator:
    """Return a source of random numbers for a seed, an index and what else tells draws apart."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a model whose PyTorch initialisation comes from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


CONTEXT: Final = 64


@cache
def _text() -> TextData:
    return TextData.split(python_topics(), context=CONTEXT, seed=0)


def _tokens(seed: int, index: int, size: int) -> tuple[Tensor, Tensor]:
    return replace(_text(), seed=seed + 1).batch(index, size)


@cache
def _held_out_text() -> list[tuple[Tensor, Tensor]]:
    windows = _text().validation_windows(256)
    return [(part[:, :-1], part[:, 1:]) for part in windows.split(64)]


def _token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    # A masked mean as many write it by hand: with no token in the mask, 0 / 0 and NaN gradients,
    # which `ignore_index` of PyTorch's own would not give.
    counts = targets >= 0
    each = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.clamp(min=0).flatten(), reduction="none"
    )
    return (each * counts.flatten()).sum() / counts.sum()


def _gpt(seed: int) -> nn.Module:
    # As GPT-2 has it, without what makes trimtab's own default hard to break.
    return GPT(
        256,
        dim=64,
        depth=2,
        num_heads=4,
        max_len=CONTEXT,
        feed_forward="gelu",
        norm="layer",
        positions="learned",
        qk_norm=False,
        generator=generator(seed, 7),
    )


NOISE: Final = 1.2
"""Noise on the digits, in standard deviations of a pixel: the loss stays well above zero, so that
one per cent of it means something."""


@cache
def _digits() -> tuple[Tensor, Tensor]:
    raw = datasets.load_digits()
    x = torch.tensor(raw.images, dtype=torch.float32)[:, None]
    order = torch.randperm(len(x), generator=generator(1))
    return ((x - x.mean()) / x.std())[order], torch.tensor(raw.target)[order]


NUM_TRAINING: Final = 1297


def _images(seed: int, index: int, size: int) -> tuple[Tensor, Tensor]:
    x, y = _digits()
    random = generator(seed, index, 3)
    rows = torch.randint(NUM_TRAINING, (size,), generator=random)
    return x[rows] + NOISE * torch.randn(size, 1, 8, 8, generator=random), y[rows]


@cache
def _held_out_digits() -> list[tuple[Tensor, Tensor]]:
    x, y = (part[NUM_TRAINING:] for part in _digits())
    noise = [NOISE * torch.randn(x.shape, generator=generator(i, 5)) for i in range(4)]
    return [(x + each, y) for each in noise]


class ResidualBlock(nn.Module):
    """Two convolutions with BatchNorm beside a shortcut."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(ins, outs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outs),
            nn.ReLU(),
            nn.Conv2d(outs, outs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outs),
        )
        self.shortcut = nn.Conv2d(ins, outs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


class ResidualCNN(nn.Module):
    """A stem, three residual blocks and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            ResidualBlock(16, 16), nn.MaxPool2d(2), ResidualBlock(16, 32), ResidualBlock(32, 32)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


class Outliers(nn.Module):
    """A model in which marked examples make one layer's output pass through a huge factor.

    It is taken back at once: in float32 nothing changes but rounding, in float16 it overflows. So
    large activations of single tokens do harm in one precision and not in the other.
    """

    factor = 1e8

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.marked: Tensor | None = None
        site = inner.blocks[0]
        site = getattr(site, "feed_forward", getattr(site, "body", site))
        site.register_forward_hook(self._pass)

    def forward(self, x: Tensor) -> Tensor:
        mark = MARK_PIXEL if x.is_floating_point() else MARK_TOKEN
        self.marked = (x == mark).flatten(1).any(dim=1)
        return self.inner(x)

    def _pass(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        assert self.marked is not None
        factor = torch.where(self.marked, self.factor, 1.0)
        factor = factor.view(-1, *[1] * (output.dim() - 1)).to(torch.float32)
        half = torch.is_autocast_enabled("cpu")
        narrow = torch.get_autocast_dtype("cpu") if half else output.dtype
        grown = (output.float() * factor).to(narrow)  # beyond 65504 in float16
        return (grown.float() / factor).to(output.dtype)


def mark(x: Tensor) -> Tensor:
    """Return inputs whose first example is marked."""
    x = x.clone()
    x[(0,) * x.dim()] = MARK_PIXEL if x.is_floating_point() else MARK_TOKEN
    return x


TASKS: Final[dict[str, Task]] = {
    "gpt": Task(
        "gpt",
        _gpt,
        "adamw",
        3e-3,
        16,
        _tokens,
        _token_loss,
        _held_out_text,
        options=(("betas", (0.9, 0.95)), ("weight_decay", 0.1)),
    ),
    "cnn": Task(
        "cnn",
        lambda seed: seeded(ResidualCNN, seed),
        "sgd",
        0.05,
        64,
        _images,
        lambda logits, y: functional.cross_entropy(logits.float(), y),
        _held_out_digits,
        options=(("momentum", 0.9), ("weight_decay", 5e-4)),
    ),
}

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "small batch": {"batch_size": 4},
    "high learning rate": {"lr": 2.0},
    "no warm-up": {"warmup": 1},
    "small batch, high learning rate": {"batch_size": 4, "lr": 2.0},
}
"""Healthy ways to train either model; `lr` is a factor."""


HALF: Final = {"gpt": 6, "cnn": 24}
"""Batch sizes in float16, which a CPU computes about five times as slowly."""


def find_task(name: str, variant: str = "plain", *, half: bool = False) -> Task:
    """Return a task with the settings of a variant, small enough for float16 if asked."""
    task, settings = TASKS[name], dict(VARIANTS[variant])
    settings["lr"] = task.lr * settings.get("lr", 1.0)
    if half:
        settings["batch_size"] = HALF[name]
    return replace(task, **settings)
