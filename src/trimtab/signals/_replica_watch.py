"""Comparing replicas during a run, without ever waiting for a rank that does not take part."""

import itertools
import math
import os
from typing import Any, Final

import torch.distributed as dist
from torch import Tensor, nn

from trimtab.signals._replicas import gather_checksums, largest_differences, process_group

REPLICA_COLUMNS: Final = ("replicas.parameter_difference", "replicas.buffer_difference")

AHEAD: Final = 3
"""Steps by which a comparison is announced. A host is at most two steps ahead of another: it reads
each step's numbers in the next, and they need all ranks."""

_numbers = itertools.count()


class ReplicaWatch:
    """Compares the replicas every so many steps, if all ranks are there to do so.

    An exchange that one rank enters alone never ends, and a loop may well watch on its first rank
    only. So each rank says in the processes' common store, a few steps before, that it is going to
    compare; the first that gets there sees whether all have said so, and its answer holds for all.

    Args:
        model: As it is called.
        every: Steps between two comparisons; 0 for never.
    """

    def __init__(self, model: nn.Module, *, every: int) -> None:
        self._model = model
        self._every = every if every and _trains_together(model) else 0
        self._announced: set[int] = set()
        self._store: Any = None
        if self._every:
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            self._key = f"trimtab/{attempt}/{next(_numbers)}"
            self._store = dist.distributed_c10d._get_default_store()

    def after_step(self, number: int) -> dict[str, Tensor]:
        """Compare if this step's turn has come.

        Args:
            number: Of the step, the same on all ranks.

        Returns:
            Largest relative difference of parameters and of buffers; empty if nothing was compared.
        """
        if not self._every:
            return {}
        try:
            due = number in self._announced and self._all_are_there(number)
            self._announced.discard(number)
            if (number + AHEAD) % self._every == 0:
                self._store.add(f"{self._key}/{number + AHEAD}", 1)
                self._announced.add(number + AHEAD)
        except RuntimeError:  # the store is gone, and with it the first rank
            self._every = 0
            return {}
        sums = gather_checksums(self._model) if due else None
        if sums is None:
            return {}
        found = largest_differences(sums)
        return dict(zip(REPLICA_COLUMNS, (found["parameter"], found["buffer"]), strict=True))

    def _all_are_there(self, number: int) -> bool:
        group = process_group(self._model)
        if group is None:
            return False
        said = self._store.add(f"{self._key}/{number}", 0)
        return self._answer(number, "yes" if said == dist.get_world_size(group) else "no") == "yes"

    def _answer(self, number: int, mine: str) -> str:
        """Return what holds for all ranks: the first answer that was given."""
        answer: bytes = self._store.compare_set(f"{self._key}/{number}/all", "", mine)
        return answer.decode()

    def close(self) -> None:
        """Take back what was announced: this rank does not come."""
        try:
            for number in self._announced:
                self._answer(number, "no")
        except RuntimeError:  # the store is gone already
            pass
        self._announced.clear()
        self._every = 0


def no_comparison() -> dict[str, float]:
    """Return the signals of a record in which nothing was compared."""
    return dict.fromkeys(REPLICA_COLUMNS, math.nan)


def _trains_together(model: nn.Module) -> bool:
    """Tell whether several processes train this model: it is wrapped in DDP or sharded."""
    if process_group(model) is None:
        return False
    wrapped = getattr(model, "_orig_mod", model)
    kind = type(wrapped).__name__
    return kind == "DistributedDataParallel" or hasattr(wrapped, "set_requires_gradient_sync")
