"""Several processes that do one thing together: all succeed, or all raise."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from trimtab.errors import ConfigError, StateError

T = TypeVar("T")


class Ranks:
    """The processes that take part; this one alone if none were started.

    Args:
        group: Of `torch.distributed`; None for all of its processes.

    Raises:
        ConfigError: This process is not in the group.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.alone: bool = not are_started()
        self.rank: int = 0 if self.alone else dist.get_rank(group)
        self.count: int = 1 if self.alone else dist.get_world_size(group)
        if self.rank < 0:
            raise ConfigError(
                "This process is not in the group that it was given. Let the ranks of the group "
                "alone make this call, or pass the group that this rank is in."
            )

    def all(self, work: Callable[[], T]) -> list[T]:
        """Do a piece of work on every rank, and learn what came of it on each.

        No rank goes on alone: where one fails, all raise. One that raised before this exchange
        would leave the others waiting for it until they time out.

        Returns:
            The results, by rank.

        Raises:
            OSError: The disk failed a rank.
            StateError: Something else did, or another rank cannot be reached any more.
        """
        if self.alone:
            return [work()]
        result, error = None, None
        try:
            result = work()
        except Exception as caught:  # noqa: BLE001 # whatever it is, the others have to know
            error = caught
        outcomes = self._exchange((result, _described(error)), error)
        if error is not None:
            raise error
        for rank, (_, failure) in enumerate(outcomes):
            if failure is not None:
                number, text = failure
                where = f"on rank {rank}: {text}"
                raise StateError(f"It failed {where}") if number is None else OSError(number, where)
        return [result for result, _ in outcomes]

    def _exchange(self, outcome: object, error: Exception | None) -> list[Any]:
        """Return what came of it on each rank; a rank that has gone is noticed.

        Raises:
            StateError: A rank cannot be reached.
        """
        outcomes: list[Any] = [None] * self.count
        try:
            dist.all_gather_object(outcomes, outcome, group=self._group)
        except (RuntimeError, ValueError) as lost:
            own = "" if error is None else f" Before that, this rank failed itself: {error}"
            raise StateError(
                f"Rank {self.rank} of {self.count} has lost the others: one of them has died, or "
                "kept the others waiting for longer than the time limit, as on a disk that hangs. "
                "A checkpoint that was being written is there whole or not at all. Start all ranks "
                f"again from the newest one. (torch said: {_first_line(lost)}){own}"
            ) from (error or lost)
        return outcomes


def are_started() -> bool:
    """Return whether this process is one of several of `torch.distributed`."""
    return dist.is_available() and dist.is_initialized()


def make_own_group(group: Any, timeout_s: float) -> Any:
    """Make a group of the same processes for the CPU alone; all of them call this together.

    What a thread exchanges in it cannot come between the collective calls of the training.

    Args:
        group: Of `torch.distributed`; None for all of its processes.
        timeout_s: How long one waits for another.
    """
    limit = timedelta(seconds=timeout_s)
    if group is None:
        return dist.new_group(backend="gloo", timeout=limit)
    ranks = dist.get_process_group_ranks(group)
    return dist.new_group(ranks, limit, "gloo", use_local_synchronization=True)


def _first_line(error: Exception) -> str:
    """Return what gloo says, without the place in its source and its guess at the cause."""
    text = str(error).strip().partition("\n")[0].partition(". This is typically")[0]
    return text.rpartition("third_party/")[2].partition("] ")[2] or text


def _described(error: Exception | None) -> tuple[int | None, str] | None:
    if error is None:
        return None
    number = error.errno if isinstance(error, OSError) else None
    return number, str(error)
