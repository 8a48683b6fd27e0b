"""Which examples of a bad batch are at fault, found by halving it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.checkpoint import random_state, restore_random_state
from trimtab.guard._tape import MicroStep
from trimtab.precision import autocast

MAX_PASSES: Final = 40
"""Forward passes over parts of a batch: eight examples among 1,024 take about as many."""

MAX_ROWS: Final = 8
"""Examples that are named; where more are bad, the batch is."""

FAR: Final = 4.0
"""Ratio of a part's loss to the rest's from which on it is looked into, if it is not plainly bad:
one example in 64 that is 1,000 times off lifts the mean of its half 16 times."""


def suspect_rows(
    model: nn.Module, micro: MicroStep, is_bad: Callable[[float], bool]
) -> list[tuple[int, float]]:
    """Return the examples whose loss is bad, with their losses; none if it is the batch as a whole.

    The loss is computed on parts of the batch, in evaluation mode, so that examples do not depend
    on each other. Nothing is changed.

    Args:
        model: In the state that the batch met.
        micro: Whose batch it is.
        is_bad: Whether a mean loss is that of a bad batch.
    """
    tensors = _rows_of(micro.batch)
    if not tensors:
        return []
    search = _Search(micro, tensors, is_bad)
    with _evaluating(model):
        try:
            return search.run()
        except Exception:  # noqa: BLE001 # a loss that cannot be had of a part of the batch
            return []


class _Search:
    """One search through one batch."""

    def __init__(
        self, micro: MicroStep, tensors: Sequence[Tensor], is_bad: Callable[[float], bool]
    ) -> None:
        self.micro, self.tensors, self.is_bad = micro, tensors, is_bad
        self.size = len(tensors[0])
        self.left = MAX_PASSES

    def run(self) -> list[tuple[int, float]]:
        waiting: list[list[int]] = [list(range(self.size))]
        found: list[tuple[int, float]] = []
        while waiting and self.left > 0:
            rows = waiting.pop()
            if len(rows) == 1:
                found.append((rows[0], self._loss(rows)))
                if len(found) > MAX_ROWS:
                    return []
                continue
            half = len(rows) // 2
            parts = rows[:half], rows[half:]
            losses = [self._loss(part) for part in parts]
            waiting += [
                part
                for part, loss, other in zip(parts, losses, losses[::-1], strict=True)
                if self._is_suspect(loss, other)
            ]
        named = len(found) <= self.size // 2 and not waiting
        return sorted(found) if named else []

    def _is_suspect(self, loss: float, other: float) -> bool:
        if not math.isfinite(loss) or self.is_bad(loss):
            return True
        return math.isfinite(other) and loss > FAR * abs(other)

    def _loss(self, rows: Sequence[int]) -> float:
        self.left -= 1
        kind = self.tensors[0].device.type
        with _only(self.tensors, rows), autocast(kind, self.micro.precision):
            return float(self.micro.compute())


def _rows_of(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch that have an example in each row."""
    found: list[Tensor] = []
    waiting = [batch]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.ndim and value.layout == torch.strided and not value.requires_grad:
                found.append(value)
        elif isinstance(value, dict):
            waiting += list(value.values())
        elif isinstance(value, list | tuple):
            waiting += list(value)
    sizes = {len(t) for t in found}
    return found if len(sizes) == 1 and min(sizes) > 1 else []


@contextmanager
def _only(tensors: Sequence[Tensor], rows: Sequence[int]) -> Iterator[None]:
    """Let tensors hold some of their rows alone, inside; they are the same tensors."""
    whole = [t.data for t in tensors]
    try:
        for t, data in zip(tensors, whole, strict=True):
            t.data = data[list(rows)]
        yield
    finally:
        for t, data in zip(tensors, whole, strict=True):
            t.data = data


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()]
    random = random_state()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        restore_random_state(random)
