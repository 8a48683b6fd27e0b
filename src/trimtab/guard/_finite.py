"""Whether everything that training changes is finite, or has become so that it is not."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.guard._live import LiveState


class FiniteWatch:
    """Tells when a value of the state turns into NaN or infinity, although no loss has shown it.

    Batch norms hide a weight of 1e37, and a second moment that is infinite freezes its weight
    without a word. What was not finite at the first look, such as a mask of minus infinities, is
    meant to be so.

    Args:
        live: What is looked at.
    """

    def __init__(self, live: LiveState) -> None:
        self._live = live
        self._expected: tuple[frozenset[int], bool] | None = None
        self._seen: tuple[frozenset[int], bool] = frozenset(), False

    def has_broken(self) -> bool:
        """Look at all values; return whether some are not finite that were before."""
        reading = self._live.read()
        own = sorted(set(reading.model.values()) | set(reading.others.values()))
        rest = sorted(set(range(len(reading.tensors))) - set(own))
        places = frozenset(own[i] for i in nonfinite([reading.tensors[i] for i in own]))
        moments = bool(nonfinite([reading.tensors[i] for i in rest]))
        self._seen = places, moments
        if self._expected is None:
            self.accept()
        expected = self._expected or self._seen
        return not places <= expected[0] or moments > expected[1]

    def accept(self) -> None:
        """Take what was not finite at the last look for what is meant to be so."""
        self._expected = self._seen


@torch.no_grad()
def nonfinite(tensors: Sequence[Tensor]) -> list[int]:
    """Return the indices of those tensors that hold a value which is not finite."""
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.is_floating_point() and tensor.numel() and tensor.layout == torch.strided:
            alike.setdefault((tensor.device, tensor.dtype), []).append(i)
    found: list[int] = []
    for places in alike.values():
        largest = torch.stack(torch._foreach_norm([tensors[i] for i in places], torch.inf))
        flags = (~largest.isfinite()).tolist()
        found += [i for i, bad in zip(places, flags, strict=True) if bad]
    return sorted(found)
