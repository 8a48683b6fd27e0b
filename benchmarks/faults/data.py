"""Small real and synthetic data sets that need no network, as batches with a score."""

import pydoc_data.topics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn import datasets
from torch import Tensor, nn

Alter = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
Generator = torch.Generator


class Batches:
    """Pairs of inputs and targets in an order of their own each time they are iterated.

    Args:
        x: First dimension: examples.
        y: Targets.
        size: Examples a batch; a last short batch is dropped.
        generator: For the order.
        shuffle: Whether the order changes.
        alter: Called with the number of the batch since the beginning, from 0, and the batch.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        size: int,
        generator: Generator,
        *,
        shuffle: bool = True,
        alter: Alter | None = None,
    ) -> None:
        self.x, self.y, self.size, self.shuffle, self.alter = x, y, size, shuffle, alter
        self.generator = generator
        self.count = 0

    def __len__(self) -> int:
        return len(self.x) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.x)
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for i in range(len(self)):
            rows = order[i * self.size : (i + 1) * self.size]
            x, y = self.x[rows], self.y[rows]
            if self.alter is not None:
                x, y = self.alter(self.count, x, y)
            self.count += 1
            yield x, y


@dataclass
class Task:
    """Inputs and targets as tensors, and how good a model is at them."""

    x: Tensor
    y: Tensor
    score: Callable[[nn.Module], float]

    def batches(self, size: int, generator: Generator, **options: Any) -> Batches:
        """Return them in batches; options are those of `Batches`."""
        return Batches(self.x, self.y, size, generator, **options)

    def with_inputs(self, change: Callable[[Tensor], Tensor]) -> "Task":
        """Return the same task with inputs that look different, in training and in the score."""
        x = change(self.x)
        return Task(x, self.y, type_of_score(self)(x, self.y))


def type_of_score(task: Task) -> Callable[[Tensor, Tensor], Callable[[nn.Module], float]]:
    """Return what makes a score of the kind that a task has."""
    if task.y.dtype == torch.long:
        return class_score
    binary = bool(((task.y == 0) | (task.y == 1)).all())
    return binary_score if binary else regression_score


def class_score(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Return the share of wrong classes; for sequences, of wrong tokens."""

    def score(model: nn.Module) -> float:
        out = model(x)
        return (out.argmax(-1) != y).float().mean().item() if _finite(out) else float("nan")

    return score


def binary_score(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Return the share of wrong signs, or of probabilities on the wrong side of a half."""

    def score(model: nn.Module) -> float:
        out = model(x)
        middle = 0.5 if bool(((out >= 0) & (out <= 1)).all()) else 0.0
        return ((out > middle) != (y > 0.5)).float().mean().item() if _finite(out) else float("nan")

    return score


def regression_score(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Return the share of the targets' variance that is not explained."""

    def score(model: nn.Module) -> float:
        out = model(x).reshape(y.shape)
        return ((out - y).square().mean() / y.var()).item()

    return score


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())


@cache
def _table(name: str) -> tuple[Tensor, Tensor]:
    bunch = getattr(datasets, f"load_{name}")()
    return torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)


def standard(x: Tensor) -> Tensor:
    """Return features with mean 0 and standard deviation 1."""
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6)


def digits(*, image: bool = False, pixels: str = "normal") -> Task:
    """8 x 8 digits; pixels of mean 0 and deviation 1, `"unit"` for 0..1, or `"raw"` for 0..255."""
    x, y = _table("digits")
    x = x / 16
    if pixels == "normal":
        x = (x - x.mean()) / x.std()
    elif pixels == "raw":
        x = x * 255
    x = x.reshape(-1, 1, 8, 8) if image else x
    return Task(x, y.long(), class_score(x, y))


def table(name: str, *, raw: bool = False) -> Task:
    """Wine or iris, with three classes."""
    x, y = _table(name)
    x = x if raw else standard(x)
    return Task(x, y.long(), class_score(x, y))


def cancer(*, raw: bool = False) -> Task:
    """Breast cancer: 30 features, a target of 0 or 1 in a column."""
    x, y = _table("breast_cancer")
    x, y = (x if raw else standard(x)), y.float().unsqueeze(1)
    return Task(x, y, binary_score(x, y))


def diabetes(*, scale: float = 1.0, shift: float = 0.0) -> Task:
    """Progression of a disease from ten features, in a column; standardised, then scaled."""
    x, y = _table("diabetes")
    x, y = standard(x), standard(y.float()).unsqueeze(1) * scale + shift
    return Task(x, y, regression_score(x, y))


def traits() -> Task:
    """Three yes-or-no questions about a digit: is it even, above four, prime."""
    task = digits()
    prime = torch.isin(task.y, torch.tensor([2, 3, 5, 7]))
    y = torch.stack([task.y % 2 == 0, task.y > 4, prime], 1).float()
    return Task(task.x, y, binary_score(task.x, y))


def waves(
    generator: Generator, *, noise: float = 0.1, count: int = 512, scale: float = 1.0
) -> Task:
    """A smooth function of four inputs with noise."""
    x = torch.randn(count, 4, generator=generator)
    y = torch.sin(2 * x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3] + 0.3 * x[:, 3:]
    y = (y + noise * torch.randn(count, 1, generator=generator)) * scale
    return Task(x, y, regression_score(x, y))


def adding(
    generator: Generator, *, length: int = 20, count: int = 1024, scale: float = 1.0
) -> Task:
    """Sum of the two marked numbers of a sequence (Hochreiter & Schmidhuber 1997)."""
    numbers = torch.rand(count, length, generator=generator)
    marks = torch.zeros(count, length)
    half = length // 2
    first = torch.randint(half, (count, 1), generator=generator)
    second = half + torch.randint(half, (count, 1), generator=generator)
    marks.scatter_(1, first, 1.0).scatter_(1, second, 1.0)
    y = ((numbers * marks).sum(1, keepdim=True) - 1.0) / 0.41 * scale
    x = torch.stack([numbers, marks], 2)
    return Task(x, y, regression_score(x, y))


def first_token(generator: Generator, *, length: int = 20, classes: int = 4) -> Task:
    """Name the first of a sequence of one-hot symbols; the others are of no use."""
    symbols = torch.randint(classes, (1024, length), generator=generator)
    x = nn.functional.one_hot(symbols, classes).float()
    y = symbols[:, 0]
    return Task(x, y, class_score(x, y))


def parity(generator: Generator, *, bits: int = 3, count: int = 1024, width: int = 12) -> Task:
    """Parity of the first bits among others that do not matter."""
    x = torch.randint(2, (count, width), generator=generator).float() * 2 - 1
    y = (x[:, :bits].prod(1) > 0).long()
    return Task(x, y, class_score(x, y))


@cache
def _text() -> tuple[Tensor, int]:
    text = "\n".join(v for _, v in sorted(pydoc_data.topics.topics.items()))[:200_000]
    alphabet = sorted(set(text))
    index = {c: i for i, c in enumerate(alphabet)}
    return torch.tensor([index[c] for c in text]), len(alphabet)


def vocabulary() -> int:
    """Return the number of different characters in the text."""
    return _text()[1]


def characters(generator: Generator, *, length: int = 32, count: int = 1600) -> Task:
    """Crops of Python's own manual, and the same moved on by one character."""
    tokens, _ = _text()
    starts = torch.randint(len(tokens) - length - 1, (count, 1), generator=generator)
    rows = tokens[starts + torch.arange(length + 1)]
    x, y = rows[:, :-1], rows[:, 1:]
    return Task(x, y, class_score(x[:256], y[:256]))
