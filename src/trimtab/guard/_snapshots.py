"""Snapshots in memory: a ring of states to return to, copied without stalling the step."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor

from trimtab.checkpoint._tree import flatten
from trimtab.errors import ConfigError, StateError
from trimtab.guard._host_copies import Pool, keys_of, storage_bytes
from trimtab.guard._host_memory import snapshot_budget_bytes
from trimtab.guard._leaves import put_together
from trimtab.guard._live import LiveState, OptimizerReading, Reading

MAX_INTERVAL: Final = 500
"""Steps between snapshots at most: more would be lost in a rollback than it is worth."""

FIRST_INTERVAL: Final = 16
"""Steps to the second snapshot: how long a step takes is not known before."""

_LEFT_OUT: Final = object()

_REMEMBERED: Final = 5
"""Copies whose times are looked at; the median of 5 passes over two disturbed ones."""


class Snapshot:
    """Everything that training changes, as it was after one step."""

    def __init__(
        self, step: int, reading: Reading, stored: list[Tensor], events: Sequence[Any]
    ) -> None:
        self.step = step
        self.healthy = False
        self.nbytes = sum(t.numel() * t.element_size() for t in stored)
        self._stored: list[Tensor] | None = stored
        self._events = list(events)
        self._keys = keys_of(reading.tensors)
        self.reading = replace(reading, tensors=[])
        """What the copies are of."""

    def stored(self) -> list[Tensor]:
        """Return the copies, after they are there.

        Raises:
            StateError: The ring has dropped this snapshot.
        """
        if self._stored is None:
            raise StateError(
                f"The snapshot of step {self.step} was dropped and its memory is in use again. Ask "
                "the ring for one that it still holds, with newest()."
            )
        for event in self._events:
            event.synchronize()
        self._events.clear()
        return self._stored

    def release(self) -> tuple[list[Tensor], list[tuple[Any, ...]]]:
        """Hand over the copies, with what they fit; the snapshot is of no use after that."""
        stored, self._stored = self.stored(), None
        return stored, self._keys

    def state_dict(self) -> dict[str, Any]:
        """Return everything as nested tensors, numbers and strings that can be saved unpickled.

        Returns:
            `model`, as its own `state_dict()` has it (of sharded tensors, this process's part);
            `buffers`, those that it leaves out; `others`, parameters outside of it; `optimizers`;
            `extra`, what modules keep by `get_extra_state`; `parts`; `random`; `step`; `healthy`;
            and `left_out`, the places of values that could only be pickled. All are copies.
        """
        stored, reading = self.stored(), self.reading
        copies = [t.clone(memory_format=torch.preserve_format) for t in stored]
        left_out: list[str] = []

        def plain(structure: Any, path: str) -> Any:
            built = put_together(structure, lambda leaf: copies[leaf.index])
            return _savable(built, path, left_out)

        model = {name: copies[i] for name, i in reading.model.items()}
        return {
            "step": self.step,
            "healthy": self.healthy,
            "model": {n: t for n, t in model.items() if n not in reading.transient},
            "buffers": {n: t for n, t in model.items() if n in reading.transient},
            "others": {n: copies[i] for n, i in reading.others.items()},
            "optimizers": [
                plain(_as_torch_saves(o), f"optimizers.{i}")
                for i, o in enumerate(reading.optimizers)
            ],
            "extra": {n: plain(s, f"extra.{n}") for n, s in reading.extra.items()},
            "parts": {n: plain(s, f"parts.{n}") for n, s in reading.parts.items()},
            "random": _savable(copy.deepcopy(reading.random), "random", left_out),
            "left_out": left_out,
        }


class SnapshotRing:
    """The last snapshots, taken as often as the budget of time and memory allows.

    A snapshot counts as healthy only when `confirm` says so, which is when a fault that was already
    there would have shown. The newest healthy one is never given up for another that has yet
    to prove itself.

    Args:
        live: What is copied.
        slots: Snapshots kept; at least 2, one to return to while the next proves itself.
        memory_bytes: Host memory for all; None takes a quarter of what is free now.
        overhead: Share of training time that copying may take, in (0, 1).
        slowest: Returns the largest value of any rank, where several train one model and all call
            `take` at the same steps: then all keep the same ones. None decides alone.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(
        self,
        live: LiveState,
        *,
        slots: int = 3,
        memory_bytes: int | None = None,
        overhead: float = 0.01,
        slowest: Callable[[float], float] | None = None,
    ) -> None:
        if slots < 2:
            raise ConfigError(
                f"slots must be at least 2, got {slots}: one snapshot to return to while the next "
                "proves itself."
            )
        if memory_bytes is not None and memory_bytes <= 0:
            raise ConfigError(
                f"memory_bytes must be positive, got {memory_bytes}. None takes a quarter of the "
                "free memory."
            )
        if not 0 < overhead < 1:
            raise ConfigError(f"overhead must be a share in (0, 1), got {overhead}.")
        self.live, self.slots, self.overhead = live, slots, overhead
        self.memory_bytes = snapshot_budget_bytes() if memory_bytes is None else memory_bytes
        self.snapshots: list[Snapshot] = []
        """Oldest first."""
        self.interval = FIRST_INTERVAL
        """Steps from the last snapshot to the next."""
        self.copy_seconds: list[float] = []
        """What the last copies took of the step."""
        self.num_taken = 0
        self._pool = Pool()
        self._slowest = slowest or (lambda value: value)
        self._room = slots
        self._largest = 0
        self._last: int | None = None
        self._now = self._delay = 0
        self._step_seconds = math.nan
        self._refused = False

    def due(self, step: int, step_seconds: float) -> bool:
        """Tell whether a snapshot should be taken now.

        Args:
            step: Optimizer steps done.
            step_seconds: What a step takes, as a median; NaN or 0 if nobody knows yet.
        """
        self._now = step
        if math.isfinite(step_seconds) and step_seconds > 0:
            self._step_seconds = step_seconds
        if self._refused:
            return False
        if self._last is None:
            return True
        healthy = sum(s.healthy for s in self.snapshots)
        # Taken more often than that, all would be waiting to be confirmed and none could go.
        spread = math.ceil(self._delay / max(1, self._room - 1))
        free = len(self.snapshots) < self._room or healthy > 1
        return free and step - self._last >= max(self.interval, spread)

    def take(self, step: int, *, began: float | None = None) -> Snapshot | None:
        """Copy everything.

        Args:
            step: Optimizer steps done.
            began: Time, by `time.perf_counter()`, at which the state began to be looked at: what
                that takes belongs to a snapshot's cost. None is now.

        Returns:
            The snapshot; None if the memory does not allow it. A warning says so, once.
        """
        began = time.perf_counter() if began is None else began
        self._now = self._last = step
        beside = self.live.copier.seconds_beside()
        reading = self.live.read()
        if not self._make_room(reading.tensors):
            return None
        targets = self._pool.lend(reading.tensors, self.memory_bytes)
        events = self.live.copier.copy(reading.tensors, targets, reading.late)
        snapshot = Snapshot(step, reading, targets, events)
        self.snapshots.append(snapshot)
        self.num_taken += 1
        # Of a copy beside the step only what the update has to wait for costs time; forward and
        # backward pass, which do not wait, are more than half of a step.
        waited = max(0.0, beside - self._step_seconds / 2) if beside else 0.0
        self._plan_next(time.perf_counter() - began + waited)
        return snapshot

    def _make_room(self, tensors: Sequence[Tensor]) -> bool:
        """Give up snapshots until there is room for another; False if there can be none."""
        self._largest = max(self._largest, sum(map(storage_bytes, tensors)), 1)
        room = min(self.slots, self.memory_bytes // self._largest)
        self._room = int(-self._slowest(-room))
        while len(self.snapshots) >= max(1, self._room):
            victim = self._victim()
            if victim is None:
                break
            self._drop(victim)
        taken = len(self.snapshots) < self._room
        if self._room < 2 and not self._refused:
            self._refused = True
            self._warn(taken=taken)
        return taken

    def _warn(self, *, taken: bool) -> None:
        kept = self.snapshots[-1].step if self.snapshots else self._now
        only = f"Only the one of step {kept} is kept, and it is not renewed."
        what = only if taken or self.snapshots else "There is no state to roll back to."
        warnings.warn(
            f"The memory for snapshots is {_gigabytes(self.memory_bytes)}, and one of this run's "
            f"takes {_gigabytes(self._largest)}; two are needed to renew them. {what} Allow at "
            f"least memory_bytes={2 * self._largest}, or shard the model over more processes.",
            UserWarning,
            stacklevel=4,
        )

    def _victim(self) -> Snapshot | None:
        """Return the snapshot that is missed least, or None if all have to stay."""
        healthy = [s for s in self.snapshots if s.healthy]
        if len(healthy) > 1:
            return healthy[0]
        waiting = [s for s in self.snapshots if not s.healthy]
        # The oldest of them is the next to be confirmed. Given up every time, none ever would be.
        if len(waiting) > 1:
            return min(waiting[1:], key=self._gap_without)
        return waiting[0] if waiting and healthy else None

    def _gap_without(self, snapshot: Snapshot) -> int:
        """Return how many steps would lie between the neighbours of a snapshot that goes."""
        index = self.snapshots.index(snapshot)
        last = snapshot is self.snapshots[-1]
        after = self._now if last else self.snapshots[index + 1].step
        return after - self.snapshots[index - 1].step

    def _drop(self, snapshot: Snapshot) -> None:
        self.snapshots.remove(snapshot)
        self._pool.give_back(*snapshot.release())

    def _plan_next(self, seconds: float) -> None:
        """Set the steps to the next snapshot from what copying costs and a step takes."""
        self.copy_seconds = [*self.copy_seconds, seconds][-_REMEMBERED:]
        wanted = FIRST_INTERVAL
        if math.isfinite(self._step_seconds):
            share = self.overhead * self._step_seconds
            wanted = math.ceil(min(MAX_INTERVAL, median(self.copy_seconds) / share))
        self.interval = max(1, int(self._slowest(wanted)))

    def before_update(self) -> None:
        """Let the next optimizer step wait, on the device, for copies of what it writes to."""
        self.live.copier.before_update()

    def restore(self, snapshot: Snapshot) -> None:
        """Put everything back as it was, bit for bit; a snapshot serves any number of times.

        Gradients stay as they are.

        Args:
            snapshot: One that this ring still holds.

        Raises:
            StateError: The ring has dropped it, or the model was changed since; nothing is changed.
        """
        stored = snapshot.stored()
        self.live.copier.before_update()
        self.live.write(snapshot.reading, stored)

    def confirm(self, until: int) -> None:
        """Call all snapshots healthy that were taken after step `until` or before."""
        self._delay = max(0, self._now - until)
        for snapshot in self.snapshots:
            if snapshot.step <= until:
                snapshot.healthy = True

    def newest(self, *, before: int | None = None, healthy: bool | None = None) -> Snapshot | None:
        """Return the newest snapshot, or None.

        Args:
            before: Only of steps before this one.
            healthy: Only those that are, or are not, confirmed.
        """
        for snapshot in reversed(self.snapshots):
            if before is not None and snapshot.step >= before:
                continue
            if healthy is None or snapshot.healthy == healthy:
                return snapshot
        return None

    def drop_after(self, step: int) -> None:
        """Give up all snapshots of later steps."""
        for snapshot in [s for s in self.snapshots if s.step > step]:
            self._drop(snapshot)
        self._now = step
        if self._last is not None:
            self._last = min(self._last, step)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _as_torch_saves(optimizer: OptimizerReading) -> dict[str, Any]:
    """Return what the optimizer's own `state_dict()` would hold, without values."""
    places: dict[int, int] = {}
    groups = []
    for settings, params in zip(optimizer.settings, optimizer.params, strict=True):
        for p in params:
            places.setdefault(id(p), len(places))
        groups.append(settings | {"params": [places[id(p)] for p in params]})
    state = {places.get(id(key), key): value for key, value in optimizer.state}
    return {"state": state, "param_groups": groups}


def _savable(value: Any, path: str, left_out: list[str]) -> Any:
    """Return nested state without what only pickling could save, whose places are noted."""
    if isinstance(value, Mapping):
        kept = {k: _savable(v, f"{path}.{k}", left_out) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v is not _LEFT_OUT}
    if isinstance(value, list | tuple):
        items = [_savable(v, f"{path}.{i}", left_out) for i, v in enumerate(value)]
        kept_items = [None if v is _LEFT_OUT else v for v in items]
        return tuple(kept_items) if isinstance(value, tuple) else kept_items
    try:
        flatten(value)
    except ConfigError:
        left_out.append(path)
        return _LEFT_OUT
    return value
