"""Checkpoints of several processes that are written while training goes on."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from trimtab.checkpoint._background import Background
from trimtab.checkpoint._contribution import collect, encode_contribution
from trimtab.checkpoint._host_copies import HostCopies
from trimtab.checkpoint._ranks import Ranks, are_started, make_own_group
from trimtab.checkpoint._safetensors import Chunks
from trimtab.checkpoint._sharded import collect_together, write_together
from trimtab.checkpoint._store import checkpoint_path
from trimtab.errors import ConfigError, StateError


class AsyncShardedCheckpointer:
    """Writes checkpoints of all ranks in threads, one at a time; make it and call it on all ranks.

    `save` copies this rank's shards into the CPU's memory, as `AsyncCheckpointer` does, and
    exchanges a few bytes so that all ranks begin or none does. Threads write, verify and agree. The
    checkpoint appears when the last rank has verified its part, without any further call. What the
    threads exchange goes through a gloo group of their own, so it cannot come between the
    collective calls of the training, whatever their backend.

    If a rank fails, as on a full disk, all raise in the next `save`, `wait` or `close`, and the
    checkpoint before is still the newest. A rank that dies is noticed at once, one that hangs
    after `timeout_s`. After that no save works any more: start the training again.

    Use it as a context manager, or call `close` before `destroy_process_group`.

    Args:
        group: Of `torch.distributed`; None for all processes.
        timeout_s: How many seconds a rank waits for another; above 0. The default is that of
            torch.

    Raises:
        ConfigError: The time is not above 0, or this process is not in the group.
    """

    def __init__(self, group: Any = None, *, timeout_s: float = 1800.0) -> None:
        if not timeout_s > 0:
            raise ConfigError(
                f"timeout_s must be above 0, got {timeout_s}. It has to be longer than the "
                "slowest rank takes to write its part."
            )
        ranks = Ranks(group)
        self._ranks = ranks if ranks.alone else Ranks(make_own_group(group, timeout_s))
        self._background = Background("AsyncShardedCheckpointer")
        self._model, self._state = HostCopies(), HostCopies()

    def save(
        self,
        folder: Path,
        step: int,
        *,
        model: Mapping[str, Tensor],
        state: Mapping[str, Any],
        rank_state: Mapping[str, Any] | None = None,
        keep: int = 2,
        healthy: bool = True,
    ) -> Path:
        """Copy this rank's part, and begin to write it; takes what `save_sharded` takes.

        Args:
            folder: On a disk that all ranks see.
            step: Names it.
            model: Shards (`DTensor`) or whole tensors, which rank 0 writes.
            state: Likewise; what is no shard is taken from rank 0.
            rank_state: What each rank has for itself.
            keep: How many healthy checkpoints to keep; at least 1.
            healthy: False for one that is taken inside an incident.

        Returns:
            The folder that it will have when it is whole.

        Raises:
            ConfigError: The state holds something that only pickling could save, or a name twice,
                or the ranks save different steps.
            OSError: The save before this one failed, and no rank began this one: call it again.
            StateError: It was closed, another rank failed in another way, or cannot be reached.
        """
        if self._ranks.alone and are_started():
            raise StateError(
                "This AsyncShardedCheckpointer was made before init_process_group(), so it knows "
                "of no other ranks. Make it afterwards, on all of them."
            )
        files = collect_together(
            step, keep, self._ranks, lambda: self._copy(model, state, rank_state or {})
        )
        waits = (self._model.wait, self._state.wait)
        options = {"keep": keep, "healthy": healthy}
        self._background.begin(partial(_write, waits, folder, step, files, self._ranks, **options))
        return checkpoint_path(folder, step)

    def wait(self) -> None:
        """Return when nothing is being written any more, on any rank.

        Raises:
            OSError: The last save failed.
            StateError: Another rank failed in another way, or cannot be reached.
        """
        self._background.wait()

    def close(self) -> None:
        """Wait, and end the thread; may be called again.

        Raises:
            OSError: The last save failed.
            StateError: Another rank failed in another way, or cannot be reached.
        """
        self._background.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _copy(
        self, model: Mapping[str, Tensor], state: Mapping[str, Any], own: Mapping[str, Any]
    ) -> dict[str, Chunks]:
        """Wait for the save before and begin to copy; an error of either is told to all ranks."""
        self._background.get_ready()
        part = collect(model, state, own, self._ranks)
        return encode_contribution(part, self._model.take, self._state.take)


def _write(waits: Iterable[Callable[[], None]], *args: Any, **options: Any) -> Path:
    """Write when the copies are complete; it does not hold the checkpointer, which may be gone."""
    for wait in waits:
        wait()
    return write_together(*args, **options)
