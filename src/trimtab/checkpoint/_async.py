"""Checkpoints that are written while training goes on."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from trimtab.checkpoint._background import Background
from trimtab.checkpoint._host_copies import HostCopies
from trimtab.checkpoint._store import (
    check_settings,
    checkpoint_path,
    encode,
    write_checkpoint,
)
from trimtab.checkpoint._tree import flatten


class AsyncCheckpointer:
    """Writes checkpoints in a thread of its own, one at a time.

    `save` copies everything into the CPU's memory, so training may go on changing it at once. From
    a CUDA device it only begins to copy, in the current stream: an optimizer step on the same
    stream comes after the copy. The copies are kept and used again: they cost the checkpoint's
    size in memory. A save that comes while another is being written waits for that one. What goes
    wrong in the thread is raised by the next `save`, `wait` or `close`. When the interpreter
    exits, a save under way is finished first.

    Use it as a context manager, or call `close` at the end. For a model that is split over several
    processes there is `AsyncShardedCheckpointer`.
    """

    def __init__(self) -> None:
        self._background = Background("AsyncCheckpointer")
        self._model, self._state = HostCopies(), HostCopies()

    def save(
        self,
        folder: Path,
        step: int,
        *,
        model: Mapping[str, Tensor],
        state: Mapping[str, Any],
        keep: int = 2,
        healthy: bool = True,
    ) -> Path:
        """Copy a checkpoint, and begin to write it; takes what `save_checkpoint` takes.

        Args:
            folder: Where the checkpoints of this run live; made if missing.
            step: Names it.
            model: The model's `state_dict()`.
            state: Nested tensors, numbers, strings, bytes, lists, tuples and dictionaries.
            keep: How many healthy ones to keep; at least 1.
            healthy: False for one that is taken inside an incident.

        Returns:
            The folder that it will have when it is whole.

        Raises:
            ConfigError: The state holds something that only pickling could save, or `keep` is
                below 1.
            OSError: The save before this one failed, and nothing was begun now: call it again.
            StateError: It was closed.
        """
        self._background.get_ready()
        check_settings(step, keep)
        trees = [flatten(dict(part), Tensor.detach) for part in (model, state)]
        copies = [self._model.take(trees[0][1]), self._state.take(trees[1][1])]
        parts = [(tree, copied) for (tree, _), copied in zip(trees, copies, strict=True)]
        waits = (self._model.wait, self._state.wait)
        work = partial(_write, folder, step, waits, parts, keep=keep, healthy=healthy)
        self._background.begin(work)
        return checkpoint_path(folder, step)

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            OSError: The last save failed.
        """
        self._background.wait()

    def close(self) -> None:
        """Wait, and end the thread; may be called again.

        Raises:
            OSError: The last save failed.
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


def _write(
    folder: Path,
    step: int,
    waits: Iterable[Callable[[], None]],
    parts: list[Any],
    *,
    keep: int,
    healthy: bool,
) -> Path:
    for wait in waits:
        wait()
    return write_checkpoint(folder, step, encode(*parts), keep=keep, healthy=healthy)
