"""Numbers on their way from the device to the host, in one copy that nobody waits for."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Readback:
    """A few numbers, read back together, waited for only when somebody asks.

    On CUDA the copy goes to pinned memory behind the work already queued, so asking one step later
    costs nothing. On a CPU the numbers are simply there.

    Args:
        values: 0-d tensors, or numbers that the host has already.
    """

    def __init__(self, values: Sequence[Tensor | float]) -> None:
        self._values: Sequence[Tensor | float] = values
        self._numbers: list[float] | None = None
        self._event: torch.cuda.Event | None = None
        on_device = [v for v in values if isinstance(v, Tensor) and v.device.type != "cpu"]
        if not on_device:
            return
        device = on_device[0].device
        packed = torch.stack(
            [torch.as_tensor(v, dtype=torch.float32, device=device) for v in values]
        )
        if device.type == "cuda":
            copy = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            copy.copy_(packed, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
            self._event.record()
            packed = copy
        self._values = packed.detach().unbind()

    def numbers(self) -> list[float]:
        """Return the values; waits for the copy if it is still under way."""
        if self._numbers is None:
            if self._event is not None:
                self._event.synchronize()
            self._numbers = [v.tolist() if isinstance(v, Tensor) else v for v in self._values]
        return self._numbers
