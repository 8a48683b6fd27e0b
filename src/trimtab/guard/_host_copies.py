"""Copies of tensors in the host's memory, made beside the step where the device can."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab.guard._leaves import copy_all


class Pool:
    """Host tensors that have served and serve again, by shape and type."""

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[Tensor]] = {}
        self.nbytes = 0
        """Of all tensors that are lent or lie here."""

    def lend(self, tensors: Sequence[Tensor], max_bytes: int) -> list[Tensor]:
        """Return host tensors for copies of these: page-locked ones for those of an accelerator.

        Args:
            tensors: To be copied.
            max_bytes: Beyond it, what lies here unused is freed before anything new is made.
        """
        found = [self._take(t) for t in tensors]
        missing = [t for t, f in zip(tensors, found, strict=True) if f is None]
        if self.nbytes + sum(map(storage_bytes, missing)) > max_bytes:
            self.clear()
        return [self._make(t) if f is None else f for t, f in zip(tensors, found, strict=True)]

    def _take(self, tensor: Tensor) -> Tensor | None:
        free = self._free.get(_key(tensor))
        return free.pop() if free else None

    def _make(self, tensor: Tensor) -> Tensor:
        self.nbytes += storage_bytes(tensor)
        pinned = tensor.device.type == "cuda"
        return torch.empty_like(tensor, device="cpu", pin_memory=pinned, requires_grad=False)

    def give_back(self, tensors: Sequence[Tensor], keys: Sequence[tuple[Any, ...]]) -> None:
        """Keep tensors for their next use.

        Args:
            tensors: What `lend` returned.
            keys: What `keys_of` said of the tensors that they were lent for.
        """
        for tensor, key in zip(tensors, keys, strict=True):
            self._free.setdefault(key, []).append(tensor)

    def clear(self) -> None:
        """Free what lies here."""
        for free in self._free.values():
            self.nbytes -= sum(storage_bytes(t) for t in free)
        self._free.clear()


def keys_of(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """Return what `Pool` tells tensors apart by."""
    return [_key(t) for t in tensors]


def _key(tensor: Tensor) -> tuple[Any, ...]:
    pinned = tensor.device.type == "cuda"
    return (tensor.shape, tensor.dtype, tensor.stride(), pinned)


def storage_bytes(tensor: Tensor) -> int:
    """Return the host memory of a copy; torch rounds page-locked memory up to a power of two."""
    size = tensor.numel() * tensor.element_size()
    if size and (tensor.device.type == "cuda" or tensor.is_pinned()):
        return 1 << (size - 1).bit_length()
    return size


class Copier:
    """Copies tensors to the host: at once on a CPU, on a stream of its own on CUDA.

    What only an update writes to is copied beside the next forward and backward pass;
    `before_update` makes the update wait, on the device, until that is done. Everything else (a
    forward pass writes to buffers) is copied in the order of the step.

    Args:
        optimizers: Whose steps wait, whoever makes them.
    """

    def __init__(self, optimizers: Sequence[Optimizer] = ()) -> None:
        self._optimizers, self._hooked = list(optimizers), False
        self._streams: dict[torch.device, Any] = {}
        self._pending: list[tuple[torch.device, Any]] = []
        self._sources: list[Tensor] = []  # alive until copied
        self._timed: list[tuple[Any, Any]] = []

    def copy(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor], late: Sequence[bool]
    ) -> list[Any]:
        """Start copying.

        Args:
            sources: On any devices.
            targets: On the host, one for each.
            late: Whether the copy may be made until the next update.

        Returns:
            Events to wait for before the copies are read; none on a CPU.
        """
        jobs: dict[tuple[torch.device, bool], list[int]] = {}
        for i, source in enumerate(sources):
            jobs.setdefault((source.device, late[i]), []).append(i)
        events = []
        for (device, later), places in jobs.items():
            into, of = [targets[i] for i in places], [sources[i] for i in places]
            if device.type == "cuda":
                events.append(self._copy_on_cuda(device, into, of, later=later))
            else:
                with torch.no_grad():
                    torch._foreach_copy_(into, of)
        return events

    def _copy_on_cuda(
        self, device: torch.device, into: list[Tensor], of: list[Tensor], *, later: bool
    ) -> Any:
        main = torch.cuda.current_stream(device)
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # untyped in torch
        stream = self._streams[device] if later else main
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            began, ended = _event(), _event()
            began.record(stream)
            copy_all(into, of)
            ended.record(stream)
        if later:
            self._watch_updates()
            self._pending.append((device, ended))
            self._sources += of
            self._timed.append((began, ended))
        return ended

    def _watch_updates(self) -> None:
        """Wait before every step of the optimizers: replays make some too."""
        if not self._hooked:
            self._hooked = True
            for optimizer in self._optimizers:
                register = getattr(optimizer, "register_step_pre_hook", None)
                if register is not None:  # a framework's wrapper may have none
                    register(lambda *_: self.before_update())

    def seconds_beside(self) -> float:
        """Return how long the last finished copies took beside the step, and forget them."""
        done = [(began, ended) for began, ended in self._timed if ended.query()]
        self._timed = [pair for pair in self._timed if pair not in done]
        return max((began.elapsed_time(ended) / 1e3 for began, ended in done), default=0.0)

    def before_update(self) -> None:
        """Let what the devices do next wait for the copies; the host waits for nothing."""
        for device, event in self._pending:
            torch.cuda.current_stream(device).wait_event(event)
        self._pending.clear()
        self._sources.clear()


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # untyped in torch
