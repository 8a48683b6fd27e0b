"""Numbers on their way from the device to the host, in one copy that nobody waits for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Readback:
    """Tensors read back together, waited for only when somebody asks.

    On CUDA the copy goes to pinned memory behind the work already queued, so asking one step later
    costs nothing. On a CPU the numbers are simply there.

    Args:
        values: Tensors of any shape, which nobody changes afterwards, and numbers that the host
            has already.
    """

    def __init__(self, values: Sequence[Tensor | float]) -> None:
        self._values: Sequence[Tensor | float] = values
        self._event: torch.cuda.Event | None = None
        on_device = [v for v in values if isinstance(v, Tensor) and v.device.type != "cpu"]
        if on_device:
            self._values = self._send(values, on_device[0].device)

    def _send(self, values: Sequence[Tensor | float], device: torch.device) -> list[Tensor]:
        """Start the copy of all values in float32; returns where they will be."""
        tensors = [torch.as_tensor(v, dtype=torch.float32, device=device).detach() for v in values]
        packed = torch.cat([t.reshape(-1) for t in tensors])
        if device.type == "cuda":
            copy = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            copy.copy_(packed, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
            self._event.record()
        else:
            copy = packed.cpu()
        parts = torch.split(copy, [t.numel() for t in tensors])
        return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]

    def _wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()
            self._event = None

    def arrays(self) -> list[np.ndarray[Any, Any]]:
        """Return the values in their shapes; waits for the copy if it is still under way."""
        self._wait()
        return [
            v.detach().numpy() if isinstance(v, Tensor) else np.asarray(v) for v in self._values
        ]

    def numbers(self) -> list[float]:
        """Return 0-d values as numbers; waits for the copy if it is still under way."""
        self._wait()
        return [float(a) for a in self.arrays()]
