"""Small synthetic data sets of the part `heldout`; each score is 0 for the best, 1 for a guess."""

from collections.abc import Callable
from typing import Any

import torch
from sklearn import datasets
from torch import Tensor, nn

from faults.data import Task, regression_score, standard

Generator = torch.Generator


def of_guess(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Return the share of wrong classes, over that of naming the most frequent one each time."""
    guess = 1 - y.flatten().bincount().max().item() / y.numel()

    def score(model: nn.Module) -> float:
        out = model(x)
        wrong = (out.argmax(-1) != y).float().mean().item()
        return wrong / guess if bool(out.isfinite().all()) else float("nan")

    return score


def of_sign(x: Tensor, y: Tensor, middle: float = 0.0) -> Callable[[nn.Module], float]:
    """Return the share of outputs on the wrong side of a threshold, over that of a guess.

    If all are between 0 and 1, a threshold of zero becomes a half: they are probabilities.
    """
    yes = y.mean().item()

    def score(model: nn.Module) -> float:
        out = model(x)
        limit = 0.5 if bool(((out >= 0) & (out <= 1)).all()) else middle
        wrong = ((out > limit) != (y > 0.5)).float().mean().item()
        return wrong / min(yes, 1 - yes) if bool(out.isfinite().all()) else float("nan")

    return score


def _figures() -> Tensor:
    """Five figures of 6 x 6 pixels."""
    figures = torch.zeros(5, 6, 6)
    figures[0, 2:4] = 1
    figures[1, :, 2:4] = 1
    figures[2] = torch.maximum(torch.eye(6), torch.eye(6).flip(0))
    figures[3] = 1
    figures[3, 1:5, 1:5] = 0
    figures[4, 1:5, 1:5] = 1
    return figures


def shapes(g: Generator, *, count: int = 1024, noise: float = 0.3) -> Task:
    """Images of 12 x 12 with one of five figures somewhere."""
    y = torch.randint(5, (count,), generator=g)
    places = torch.randint(7, (count, 2), generator=g)
    figures = _figures()
    x = noise * torch.randn(count, 1, 12, 12, generator=g)
    for i, (r, c) in enumerate(places.tolist()):
        x[i, 0, r : r + 6, c : c + 6] += figures[y[i]]
    x = (x - x.mean()) / x.std()
    return Task(x, y, of_guess(x, y))


def gratings(g: Generator, *, count: int = 768, classes: int = 6) -> Task:
    """Stripes of 16 x 16 pixels in one of several directions, of any width and phase."""
    y = torch.randint(classes, (count,), generator=g)
    angle = (y * torch.pi / classes).view(-1, 1, 1)
    width = 0.6 + 0.6 * torch.rand(count, 1, 1, generator=g)
    phase = 6.28 * torch.rand(count, 1, 1, generator=g)
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    x = torch.sin(width * (row * angle.cos() + column * angle.sin()) + phase)
    x = (x + 0.3 * torch.randn(count, 16, 16, generator=g)).unsqueeze(1)
    return Task(x, y, of_guess(x, y))


def signals(g: Generator, *, count: int = 1024) -> Task:
    """A sine, a square, a saw or plain noise, of 64 samples."""
    y = torch.randint(4, (count,), generator=g)
    speed = 0.1 + 0.2 * torch.rand(count, 1, generator=g)
    turns = speed * torch.arange(64.0) + torch.rand(count, 1, generator=g)
    sine = (6.2832 * turns).sin()
    kinds = torch.stack([1.4 * sine, sine.sign(), 3.4 * (turns % 1 - 0.5), torch.zeros_like(sine)])
    noise = torch.randn(count, 64, generator=g)
    x = kinds[y, torch.arange(count)] + noise * torch.where(y == 3, 1.0, 0.2).view(-1, 1)
    x = x.unsqueeze(1)
    return Task(x, y, of_guess(x, y))


def rings(g: Generator, *, count: int = 960) -> Task:
    """Three rings around each other in a plane of a space of eight dimensions."""
    y = torch.randint(3, (count,), generator=g)
    angle = 6.2832 * torch.rand(count, generator=g)
    radius = 0.6 + y + 0.12 * torch.randn(count, generator=g)
    plane = torch.stack([angle.cos(), angle.sin()], 1) * radius.unsqueeze(1)
    rest = 0.3 * torch.randn(count, 6, generator=g)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=g)).Q
    x = torch.cat([plane, rest], 1) @ turn
    return Task(x, y, of_guess(x, y))


LEVELS = (12, 8, 5)
"""Values that each of the categories of `customers` has."""


def customers(g: Generator, *, count: int = 1500) -> Task:
    """Three categories, as numbers, and four measurements; about one customer in four buys."""
    ids = [torch.randint(n, (count,), generator=g) for n in LEVELS]
    effects = [torch.randn(n, generator=g) * 1.5 for n in LEVELS]
    numeric = torch.randn(count, 4, generator=g)
    liking = sum((e[i] for e, i in zip(effects, ids, strict=True)), torch.zeros(count))
    liking = liking + numeric[:, 0] * effects[1][ids[1]] + numeric[:, 1]
    y = (liking > liking.quantile(0.75)).float().unsqueeze(1)
    x = torch.cat([torch.stack(ids, 1).float(), numeric], 1)
    return Task(x, y, of_sign(x, y))


def majority(g: Generator, *, count: int = 1280, length: int = 20) -> Task:
    """Which of the first four of seven tokens occurs most; the others are fillers."""
    y = torch.randint(4, (count,), generator=g)
    x = torch.randint(7, (count, length), generator=g)
    often = torch.rand(count, length, generator=g) < 0.3
    x = torch.where(often, y.unsqueeze(1), x)
    return Task(x, y, of_guess(x, y))


def opinions(g: Generator, *, count: int = 1280, length: int = 12) -> Task:
    """Words that are good, bad, neutral, or turn the next one round; is the whole good?"""
    x = torch.randint(40, (count, length), generator=g)
    worth = torch.zeros(40)
    worth[:10], worth[10:20] = 1.0, -1.0
    value = worth[x]
    value[:, 1:] *= 1 - 2 * (x[:, :-1] >= 36).float()
    total = value.sum(1)
    keep = total != 0
    x, y = x[keep], (total[keep] > 0).float().unsqueeze(1)
    return Task(x, y, of_sign(x, y))


def translation(g: Generator, *, count: int = 1600, length: int = 6, vocabulary: int = 10) -> Task:
    """Sentences, and the same in reverse with other words; the input holds both, as in forcing.

    The second half of an input is what the decoder is fed: a start token, `vocabulary`, and the
    target without its last word.
    """
    source = torch.randint(vocabulary, (count, length), generator=g)
    y = torch.randperm(vocabulary, generator=g)[source.flip(1)]
    start = torch.full((count, 1), vocabulary)
    x = torch.cat([source, start, y[:, :-1]], 1)
    return Task(x, y, of_guess(x[:400], y[:400]))


def histogram(g: Generator, *, count: int = 1280, length: int = 10) -> Task:
    """How often each token of a sequence occurs in it (Weiss et al. 2021); five or more is five."""
    x = torch.randint(6, (count, length), generator=g)
    often = (x.unsqueeze(1) == x.unsqueeze(2)).sum(2)
    y = often.clamp(max=5) - 1
    return Task(x, y, of_guess(x[:400], y[:400]))


def friedman(g: Generator, *, count: int = 800, noise: float = 0.5, scale: float = 1.0) -> Task:
    """Friedman's first function of ten features, of which five matter; standardised."""
    seed = int(torch.randint(10_000, (1,), generator=g))
    x, y = datasets.make_friedman1(count, 10, noise=noise, random_state=seed)
    targets = standard(torch.tensor(y).float()).unsqueeze(1) * scale
    inputs = standard(torch.tensor(x).float())
    return Task(inputs, targets, regression_score(inputs, targets))


def sensors(g: Generator, *, count: int = 1024) -> Task:
    """Readings of 32 sensors of which half are missing, to be filled in: there are four causes."""
    z = torch.randn(count, 4, generator=g)
    full = z @ torch.randn(4, 32, generator=g) / 2 + 0.1 * torch.randn(count, 32, generator=g)
    seen = torch.rand(count, 32, generator=g) < 0.5
    x = full * seen
    return Task(x, full, regression_score(x, full))


def both(g: Generator, *, scale: float = 1.0) -> Task:
    """A value of Friedman's and a class of three in one target of two columns."""
    value = friedman(g, scale=scale)
    x = value.x
    part = (x[:, 5] * x[:, 6] + x[:, 7]).unsqueeze(1)
    y = (part > part.quantile(1 / 3)).long() + (part > part.quantile(2 / 3)).long()

    def score(model: nn.Module) -> float:
        out = model(x)
        wrong = (out[:, 1:].argmax(1) != y[:, 0]).float().mean().item() / (2 / 3)
        missed = ((out[:, :1] - value.y).square().mean() / value.y.var()).item()
        return (wrong + missed) / 2

    return Task(x, torch.cat([value.y, y.float()], 1), score)


def discs(g: Generator, *, count: int = 384, noise: float = 0.5) -> Task:
    """Pictures of 16 x 16 with one disc, and where it is; one pixel in ten belongs to it."""
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    middle = 3 + 9 * torch.rand(count, 2, 1, 1, generator=g)
    radius = 2 + 2 * torch.rand(count, 1, 1, generator=g)
    away = (row - middle[:, 0]).square() + (column - middle[:, 1]).square()
    y = (away < radius.square()).float().unsqueeze(1)
    x = 1.5 * y + noise * torch.randn(count, 1, 16, 16, generator=g)
    x = (x - x.mean()) / x.std()

    def score(model: nn.Module) -> float:
        out = model(x[:128])
        if not bool(out.isfinite().all()):
            return float("nan")
        found, true = out > 0, y[:128] > 0.5
        return 1 - ((found & true).sum() / (found | true).sum().clamp(min=1)).item()

    return Task(x, y, score)


def pairs(g: Generator, *, count: int = 1280) -> Task:
    """Two measurements, and whether they are of the same one of five things; noise is louder."""
    things = torch.randn(5, 4, generator=g) * 1.5
    first = torch.randint(5, (count,), generator=g)
    same = torch.rand(count, generator=g) < 0.5
    other = (first + torch.randint(1, 5, (count,), generator=g)) % 5
    which = torch.stack([first, torch.where(same, first, other)], 1)
    x = torch.cat([things[which], 2.0 * torch.randn(count, 2, 8, generator=g)], 2)
    x[..., :4] += 0.3 * torch.randn(count, 2, 4, generator=g)
    y = (~same).float()
    return Task(x, y, of_sign(x, y, 0.5))


def communities(g: Generator, *, nodes: int = 150) -> tuple[Task, Tensor]:
    """A graph of three groups, as a task of one batch and a normalised adjacency."""
    y = torch.arange(nodes) % 3
    likely = torch.where(y.unsqueeze(0) == y.unsqueeze(1), 0.12, 0.015)
    edges = (torch.rand(nodes, nodes, generator=g) < likely).float().triu(1)
    a = edges + edges.T + torch.eye(nodes)
    degree = a.sum(1).rsqrt()
    x = torch.randn(nodes, 16, generator=g)
    x[:, :3] += 1.0 * nn.functional.one_hot(y, 3)
    return Task(x, y, of_guess(x, y)), a * degree.unsqueeze(0) * degree.unsqueeze(1)


def averages(g: Generator, *, count: int = 1024, length: int = 40) -> Task:
    """The mean of a long sequence of numbers, standardised."""
    x = torch.randn(count, length, 1, generator=g)
    y = x.mean(1) * length**0.5
    return Task(x, y, regression_score(x, y))


def seen_as(task: Task, change: Callable[[Tensor], Tensor]) -> Task:
    """Return the same task with inputs that look different, in training and in the score."""

    def score(model: Callable[[Tensor], Tensor]) -> float:
        return task.score(lambda x: model(change(x)))

    return Task(change(task.x), task.y, score)


def altered(task: Task, **changes: Any) -> Task:
    """Return a task of which training sees other inputs or targets, and the score does not."""
    return Task(changes.get("x", task.x), changes.get("y", task.y), task.score)
