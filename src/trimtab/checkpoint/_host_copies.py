"""Copies of tensors in the CPU's memory, which is used again from save to save."""

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopies:
    """Copies of tensors by name.

    From a CUDA device they are taken into pinned memory by the stream that is current, and nobody
    waits for them before `wait` is called: what this stream does later, such as the next optimizer
    step, begins after they are made. All others are complete when `take` returns.

    Torch's own stagers were not used: `BlockingAsyncStager` keeps its memory only as pinned memory,
    which needs CUDA; `DefaultStager` is not in torch 2.6 and finds its memory by the storages it
    copied last time, which those of a fresh random state never are.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._copied: list[torch.cuda.Event] = []

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Begin to copy; the copies of the time before are overwritten."""
        copies = {}
        for name, tensor in tensors.items():
            copy = self._kept.get(name)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            copies[name] = copy.copy_(tensor, non_blocking=tensor.is_cuda)
        self._kept = copies
        self._mark_end(tensors)
        return dict(copies)

    def wait(self) -> None:
        """Return when the copies are complete; any thread may ask."""
        for event in self._copied:
            event.synchronize()

    def _mark_end(self, tensors: Mapping[str, Tensor]) -> None:
        on_device = [t for t in tensors.values() if t.is_cuda]
        self._copied = []
        for device in {t.device for t in on_device}:
            self._copied.append(torch.cuda.current_stream(device).record_event())
        for tensor in on_device:  # its memory may not be given away before, if the caller drops it
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
