"""Numbers on their way from the device to the host, in one copy that nobody waits for."""

import torch
from torch import Tensor


class Readback:
    """A few 0-d tensors, read back together, waited for only when somebody asks.

    On CUDA the copy goes to pinned memory behind the work already queued, so asking one step later
    costs nothing. On a CPU the numbers are simply there.
    """

    def __init__(self, values: list[Tensor]) -> None:
        device = values[0].device
        packed = torch.stack([v.detach().to(device, torch.float32) for v in values])
        self._event: torch.cuda.Event | None = None
        self._numbers: list[float] | None = None
        if device.type == "cuda":
            self._copy = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            self._copy.copy_(packed, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
            self._event.record()
        else:
            self._copy = packed

    def numbers(self) -> list[float]:
        """Return the values; waits for the copy if it is still under way."""
        if self._numbers is None:
            if self._event is not None:
                self._event.synchronize()
            self._numbers = self._copy.tolist()
        return self._numbers
