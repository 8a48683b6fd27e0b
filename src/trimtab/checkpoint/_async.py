"""Checkpoints that are written while training goes on."""

import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor

from trimtab.checkpoint._store import (
    check_settings,
    checkpoint_path,
    encode,
    write_checkpoint,
)
from trimtab.checkpoint._tree import flatten
from trimtab.errors import StateError


class AsyncCheckpointer:
    """Writes checkpoints in a thread of its own, one at a time.

    `save` copies everything into the CPU's memory before it returns, so training may go on changing
    it at once. The copies are kept and used again: they cost the checkpoint's size in memory. A
    save that comes while another is being written waits for that one. What goes wrong in the
    thread is raised by the next `save`, `wait` or `close`. When the interpreter exits, a save under
    way is finished first.

    Use it as a context manager, or call `close` at the end.
    """

    def __init__(self) -> None:
        self._pool: Final = ThreadPoolExecutor(1, thread_name_prefix="trimtab-checkpoint")
        self._running: list[Future[Path]] = []
        self._model, self._state = _Copies(), _Copies()
        self._finalizer: Final = weakref.finalize(self, _finish, self._pool, self._running)

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
        self.wait()
        if not self._finalizer.alive:
            raise StateError("This AsyncCheckpointer was closed. Make a new one to save again.")
        check_settings(step, keep)
        trees = [flatten(dict(part), Tensor.detach) for part in (model, state)]
        copies = [self._model.take(trees[0][1]), self._state.take(trees[1][1])]
        _wait_for_devices(trees[0][1], trees[1][1])
        parts = [(tree, copied) for (tree, _), copied in zip(trees, copies, strict=True)]
        work = partial(_write, folder, step, parts, keep=keep, healthy=healthy)
        self._running.append(self._pool.submit(work))
        return checkpoint_path(folder, step)

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            OSError: The last save failed.
        """
        if self._running:
            self._running.pop().result()

    def close(self) -> None:
        """Wait, and end the thread; may be called again.

        Raises:
            OSError: The last save failed.
        """
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Copies:
    """Copies of tensors by name, in memory that is used again.

    Torch's own stagers were not used: `BlockingAsyncStager` keeps its memory only as pinned memory,
    which needs CUDA; `DefaultStager` is not in torch 2.6 and finds its memory by the storages it
    copied last time, which those of a fresh random state never are.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Begin to copy; copies from a CUDA device are complete after it was synchronised."""
        copies = {}
        for name, tensor in tensors.items():
            copy = self._kept.get(name)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            copies[name] = copy.copy_(tensor, non_blocking=tensor.is_cuda)
        self._kept = copies
        return dict(copies)


def _wait_for_devices(*tensors: Mapping[str, Tensor]) -> None:
    devices = {t.device for each in tensors for t in each.values() if t.is_cuda}
    for device in devices:
        torch.cuda.current_stream(device).synchronize()


def _write(folder: Path, step: int, parts: list[Any], *, keep: int, healthy: bool) -> Path:
    return write_checkpoint(folder, step, encode(*parts), keep=keep, healthy=healthy)


def _finish(pool: ThreadPoolExecutor, running: list[Future[Path]]) -> None:
    """End the thread; at exit too, where an error is shown as one that nobody caught."""
    pool.shutdown(wait=True)
    if running:
        running.pop().result()
