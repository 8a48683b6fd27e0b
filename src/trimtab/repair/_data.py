"""Remedies for batches: what is not finite, odd, unshuffled, too small, or of another scale."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._remedy import Order
from trimtab.repair._scaled import Scaled, first_tensor

Pair = tuple[Any, Any]

REFERENCE: Final = 20
"""Batches that say what is usual."""

FAR: Final = 4.0
"""Ratio of spreads, or distance of means in spreads, from which on a batch is odd: the mean of 16
examples or more is within one spread of that of all."""

POOL: Final = 1000
"""Batches that are held at once so that their examples can be mixed."""

NEGLIGIBLE: Final = 1e-3
"""Share of the spread of all values below which a pixel says nothing: one at the border, say."""

ROUNDING: Final = 1e-6
"""Share of its mean below which a column's spread is that of rounding in float32."""

NUM_FEATURES: Final = 4096
"""Elements of an example up to which each is standardised by itself."""


class Changed:
    """Batches as a function gives them, from those of a source.

    Args:
        source: Pairs; iterated anew each time.
        change: From an iterator of pairs to one of pairs.
    """

    def __init__(
        self, source: Iterable[Pair], change: Callable[[Iterator[Pair]], Iterator[Pair]]
    ) -> None:
        self.source, self.change = source, change

    def __iter__(self) -> Iterator[Pair]:
        return self.change(iter(self.source))


def filter_nonfinite(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Leave out examples of which an input or a target is not finite."""

    def change(pairs: Iterator[Pair]) -> Iterator[Pair]:
        for x, y in pairs:
            rows = _finite_rows(x, y)
            if rows is None or bool(rows.all()):
                yield x, y
            elif int(rows.sum()) > 1:  # BatchNorm cannot train on one
                yield x[rows], y[rows]

    setup.batches = Changed(setup.batches, change)
    return [
        Edit(
            what="examples with NaN or infinite values",
            before="trained on",
            after="left out",
            advice="drop or fill examples with NaN or infinite values before training",
        )
    ]


def _finite_rows(x: Any, y: Any) -> Tensor | None:
    """Return which examples are finite; None if inputs and targets are not rows of tensors."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or not x.ndim or not y.ndim:
        return None
    if len(x) != len(y):
        return None
    rows = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for part in (x, y):
        if part.is_floating_point():
            rows = rows & part.reshape(len(part), -1).isfinite().all(dim=1).to(x.device)
    return rows


def align_batches(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Bring batches whose inputs or targets are far off the usual scale back to it."""
    usual: list[list[tuple[float, float]]] = [[], []]

    def change(pairs: Iterator[Pair]) -> Iterator[Pair]:
        for x, y in pairs:
            yield _aligned(x, usual[0]), _aligned(y, usual[1])

    setup.batches = Changed(setup.batches, change)
    return [
        Edit(
            what="batches far off the usual scale",
            before="trained on as they are",
            after="brought to the mean and spread of the first batches",
            advice="find out why some batches have another scale, and preprocess all data alike",
        )
    ]


def _aligned(value: Any, usual: list[tuple[float, float]]) -> Any:
    """Return a tensor, brought to the usual mean and spread if it is far from them."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() < 2:
        return value
    mean, spread = float(value.double().mean()), float(value.double().std())
    if len(usual) < REFERENCE:
        usual.append((mean, spread))
        return value
    middle = sorted(m for m, _ in usual)[len(usual) // 2]
    wide = sorted(s for _, s in usual)[len(usual) // 2]
    if not wide > 0:
        return value
    odd = not 1 / FAR < spread / wide < FAR or abs(mean - middle) > FAR * wide
    if not odd or not spread > 0:
        return value
    return ((value - mean) / spread * wide + middle).to(value.dtype)


def shuffle_batches(setup: TrainingSetup, _order: Order) -> list[Edit]:
    """Mix the examples of a pass over the data, in an order of its own each time."""
    generator = torch.Generator().manual_seed(0)

    def change(pairs: Iterator[Pair]) -> Iterator[Pair]:
        while pool := list(islice(pairs, POOL)):
            if not _is_tabular(pool):
                yield from pool
                continue
            x, y = torch.cat([p[0] for p in pool]), torch.cat([p[1] for p in pool])
            order = torch.randperm(len(x), generator=generator).to(x.device)
            size = len(pool[0][0])
            for i in range(len(x) // size):
                rows = order[i * size : (i + 1) * size]
                yield x[rows], y[rows.to(y.device)]

    setup.batches = Changed(setup.batches, change)
    return [
        Edit(
            what="order of the examples",
            before="as the data are sorted",
            after="shuffled",
            advice="pass shuffle=True to the DataLoader",
        )
    ]


def join_batches(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Make one batch of several."""
    times = int(order.args.get("times", 16))

    def change(pairs: Iterator[Pair]) -> Iterator[Pair]:
        while pool := list(islice(pairs, times)):
            if _is_tabular(pool):
                yield torch.cat([p[0] for p in pool]), torch.cat([p[1] for p in pool])
            else:
                yield from pool

    setup.batches = Changed(setup.batches, change)
    size = len(order.sample[0][0]) if order.sample and _is_tabular(order.sample[:1]) else 0
    return [
        Edit(
            what="batch size",
            before=str(size or "as given"),
            after=str(size * times or f"{times} times as large"),
            advice=f"use batches {times} times as large, or GroupNorm in place of BatchNorm",
        )
    ]


def _is_tabular(pool: Sequence[Pair]) -> bool:
    """Tell whether batches are pairs of tensors that can be joined."""
    if not all(isinstance(x, Tensor) and isinstance(y, Tensor) for x, y in pool):
        return False
    shapes = {(x.shape[1:], y.shape[1:]) for x, y in pool}
    return len(shapes) == 1 and all(x.ndim and y.ndim and len(x) == len(y) for x, y in pool)


def rescale_labels(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Let labels begin at 0, and those of a binary loss end at 1."""
    seen = [t for t in (first_tensor(y) for _, y in order.sample) if t is not None and t.numel()]
    if not seen:
        return []
    low, high = min(float(t.min()) for t in seen), max(float(t.max()) for t in seen)
    whole = not seen[0].is_floating_point()
    width = 1.0 if whole or high == low else high - low
    if low == 0 and width == 1:
        return []

    def change(pairs: Iterator[Pair]) -> Iterator[Pair]:
        for x, y in pairs:
            yield x, (y - int(low) if whole else (y - low) / width)

    setup.batches = Changed(setup.batches, change)
    top = high - low if whole else 1
    return [
        Edit(
            what="labels",
            before=f"{low:g} to {high:g}",
            after=f"0 to {top:g}",
            advice=f"subtract {low:g} from the labels"
            + (f" and divide them by {width:g}" if width != 1 else ""),
        )
    ]


def normalise_inputs(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Let the model standardise its first input by itself, feature by feature."""
    found = _moments([x for x, _ in order.sample])
    if found is None:
        return []
    mean, spread = found
    setup.model = Scaled(setup.model, inputs=(mean, spread))
    return [
        Edit(
            what="inputs",
            before=f"mean {float(mean.mean()):.3g}, spread {float(spread.mean()):.3g}",
            after="mean 0, spread 1 for each feature (trimtab.repair.Scaled around the model)",
            advice="standardise each input feature: (x - mean) / std, with the mean and std of the "
            "training data",
        )
    ]


def scale_targets(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Let the model answer in standardised units, and compare there; outputs stay as they were."""
    seen = [t for t in (first_tensor(y) for _, y in order.sample) if t is not None]
    if not seen or not all(t.is_floating_point() for t in seen):
        return []
    whole = torch.cat([t.detach().flatten() for t in seen])
    whole = whole[whole.isfinite()]
    if whole.numel() < 2 or not float(whole.std()) > 0:
        return []
    mean, spread, loss_fn = whole.mean(), whole.std(), setup.loss_fn
    setup.model = Scaled(setup.model, outputs=(mean, spread))

    def scaled(output: Tensor, target: Any, *rest: Any) -> Tensor:
        return loss_fn((output - mean) / spread, (target - mean) / spread, *rest)

    setup.loss_fn = scaled
    return [
        Edit(
            what="targets in the loss",
            before=f"mean {float(mean):.3g}, spread {float(spread):.3g}",
            after="mean 0, spread 1 (the model's outputs are scaled back)",
            advice="standardise the targets: (y - mean) / std, and undo it for predictions",
        )
    ]


def _moments(inputs: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    """Return mean and spread of inputs of floating point; None if they are something else."""
    tensors = [first_tensor(x) for x in inputs]
    floats = [t.detach().float() for t in tensors if t is not None and t.is_floating_point()]
    if not floats or len(floats) != len(tensors) or any(t.ndim < 1 for t in floats):
        return None
    shape = floats[0].shape[1:]
    whole = torch.cat([t.flatten() for t in floats])
    whole = whole[whole.isfinite()]
    if whole.numel() < 2:
        return None
    floor = NEGLIGIBLE * float(whole.std()) + 1e-12  # of a feature that hardly changes
    rows = torch.cat(floats) if all(t.shape[1:] == shape for t in floats) else None
    if rows is None or rows[0].numel() > NUM_FEATURES or len(rows) < 16:
        return whole.mean(), whole.std().clamp(min=floor)
    rows = rows[rows.reshape(len(rows), -1).isfinite().all(dim=1)]
    if len(rows) < 2:
        return None
    mean, spread = rows.mean(dim=0), rows.std(dim=0)
    if len(shape) != 1:
        return mean, spread.clamp(min=floor)
    # Columns of a table may have any units: only one that never changes is left as it is.
    constant = spread <= ROUNDING * mean.abs() + torch.finfo(spread.dtype).tiny
    return mean, spread.masked_fill(constant, max(float(whole.std()), 1e-12))
