"""The losses of a loop that is not ours, as far as it shows them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.signals import Recorder, Uncopied


class NotedLosses:
    """Sums up the losses that have been noted since the last step.

    Args:
        recorder: Of the steps, whose device the sum is on.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        # Sum and number, on the device: a list would make torch.compile count its length.
        wide = torch.float64 if recorder.at_once else torch.float32
        self._sums = torch.zeros(2, dtype=wide, device=recorder.device)
        self.any = False
        """Whether there is one, which the host may know."""

    def add(self, loss: Tensor) -> None:
        """Note a loss; in evaluation, without gradients, nothing is noted."""
        if isinstance(loss, Tensor) and loss.numel() == 1 and torch.is_grad_enabled():
            self._sums[0] += loss.detach().reshape(()).to(self._sums.device)
            self._sums[1] += 1
            self.any = True

    def take(self) -> Tensor:
        """Return the mean of those noted since the last call, 0-d; NaN if there is none."""
        total, count = self._sums.to(self._recorder.device, copy=True)
        self._sums.zero_()
        self.any = False
        mean: Tensor = total / count
        return mean


class LossTap(Uncopied):
    """The forward hook of the whole model, which sees a loss that the model itself returns.

    Args:
        note: Is given it.
        is_replaying: Tells whether a step is being made again, which is none of the run's.
    """

    def __init__(self, note: Callable[[Tensor], Any], is_replaying: Callable[[], bool]) -> None:
        self._note, self._is_replaying = note, is_replaying

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) or not (module.training and torch.is_grad_enabled()):
            return
        if self._is_replaying():
            return
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(loss, Tensor):
            self._note(loss)
