"""Whether everything that training changes is finite and of a sane size."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from trimtab.guard._live import LiveState

ABSURD: Final = 1e8
"""Growth of a parameter's or buffer's largest value, from 1 at the least, between two looks that no
training makes: a flipped bit of the exponent's upper half multiplies by 2**32 and more."""


class FiniteWatch:
    """Tells when a value of the state turns into NaN, infinity or absurdity, and no loss shows it.

    Batch norms hide a weight of 1e33, and a second moment that is infinite freezes its weight
    without a word. What was not finite at the first look, such as a mask of minus infinities, is
    meant to be so. Parameters and buffers may not grow beyond measure either: a snapshot of such a
    state would lead back into it.

    Args:
        live: What is looked at.
    """

    def __init__(self, live: LiveState) -> None:
        self._live = live
        self._expected: tuple[frozenset[int], bool] | None = None
        self._seen: tuple[frozenset[int], bool] = frozenset(), False
        self._sizes: Mapping[int, float] = {}
        self._seen_sizes: Mapping[int, float] = {}

    def has_broken(self) -> bool:
        """Look at all values; return whether some have become non-finite, or absurd."""
        reading = self._live.read()
        own = sorted(set(reading.model.values()) | set(reading.others.values()))
        rest = sorted(set(range(len(reading.tensors))) - set(own))
        sizes = largest_values([reading.tensors[i] for i in own])
        self._seen_sizes = {own[i]: size for i, size in sizes.items()}
        places = frozenset(i for i, size in self._seen_sizes.items() if not math.isfinite(size))
        moments = bool(nonfinite([reading.tensors[i] for i in rest]))
        self._seen = places, moments
        if self._expected is None:
            self.accept()
        expected = self._expected or self._seen
        broken = not places <= expected[0] or moments > expected[1] or self._is_absurd()
        if not broken:
            self._sizes = self._seen_sizes
        return broken

    def _is_absurd(self) -> bool:
        """Tell whether the largest value of a tensor has grown beyond measure."""
        pairs = ((size, self._sizes.get(i, math.inf)) for i, size in self._seen_sizes.items())
        return any(size > ABSURD * max(1.0, before) for size, before in pairs)

    def accept(self) -> None:
        """Take what the last look saw for what is meant to be so."""
        self._expected, self._sizes = self._seen, self._seen_sizes


def nonfinite(tensors: Sequence[Tensor]) -> list[int]:
    """Return the indices of those tensors that hold a value which is not finite."""
    return [i for i, size in largest_values(tensors).items() if not math.isfinite(size)]


@torch.no_grad()
def largest_values(tensors: Sequence[Tensor]) -> dict[int, float]:
    """Return the largest absolute value of each floating tensor by its index; NaN if one is NaN."""
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.is_floating_point() and tensor.numel() and tensor.layout == torch.strided:
            alike.setdefault((tensor.device, tensor.dtype), []).append(i)
    found: dict[int, float] = {}
    for places in alike.values():
        largest = torch.stack(torch._foreach_norm([tensors[i] for i in places], torch.inf))
        found |= dict(zip(places, largest.tolist(), strict=True))
    return dict(sorted(found.items()))
