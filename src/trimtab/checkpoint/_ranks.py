"""Several processes that do one thing together: all succeed, or all raise."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from trimtab.errors import StateError

T = TypeVar("T")


class Ranks:
    """The processes that take part; this one alone if none were started.

    Args:
        group: Of `torch.distributed`; None for all of its processes.
    """

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self._alone = not (dist.is_available() and dist.is_initialized())
        self.rank: int = 0 if self._alone else dist.get_rank(group)
        self.count: int = 1 if self._alone else dist.get_world_size(group)

    def all(self, work: Callable[[], T]) -> list[T]:
        """Do a piece of work on every rank, and learn what came of it on each.

        No rank goes on alone: where one fails, all raise. One that raised before this exchange
        would leave the others waiting for it until they time out.

        Returns:
            The results, by rank.

        Raises:
            OSError: The disk failed a rank.
            StateError: Something else did.
        """
        if self._alone:
            return [work()]
        result, error = None, None
        try:
            result = work()
        except Exception as caught:  # noqa: BLE001 # whatever it is, the others have to know
            error = caught
        outcomes: list[Any] = [None] * self.count
        dist.all_gather_object(outcomes, (result, _described(error)), group=self._group)
        if error is not None:
            raise error
        for rank, (_, failure) in enumerate(outcomes):
            if failure is not None:
                number, text = failure
                where = f"on rank {rank}: {text}"
                raise StateError(f"It failed {where}") if number is None else OSError(number, where)
        return [result for result, _ in outcomes]


def _described(error: Exception | None) -> tuple[int | None, str] | None:
    if error is None:
        return None
    number = error.errno if isinstance(error, OSError) else None
    return number, str(error)
