"""What one call of `Stepper.step()` did."""

import math
from typing import Final

from torch import Tensor

from trimtab.signals import Readback

_FIELDS: Final = ("found_inf", "grad_norm", "clip_coefficient", "loss")


class StepResult:
    """What one call of `Stepper.step()` did.

    Numbers are read from the device when they are first asked for: a loop that does not look waits
    for nothing, and one that looks a step later hardly does.

    Attributes:
        due: Whether the accumulation window was full. Otherwise nothing was done: `stepped` and
            `skipped` are both false and the norms are NaN.
        lr: Learning rate of the first param group that this step used.
        grad_norms: Norm of each parameter's gradient before clipping, `(num_grads,)`, in the order
            of the optimizer's parameters that have a gradient; on the device. None if not due.
    """

    def __init__(
        self,
        *,
        lr: float,
        values: Readback | None = None,
        grad_norms: Tensor | None = None,
        loss_scale: Tensor | None = None,
    ) -> None:
        self.due: Final = values is not None
        self.lr: Final = lr
        self.grad_norms: Final = grad_norms
        self._values = values
        self.made_again = False
        """Whether it was left out first, and the guard made it again with success."""
        self._loss_scale = loss_scale

    def _read(self, field: str) -> float:
        if self._values is None:
            return math.nan
        return self._values.numbers()[_FIELDS.index(field)]

    @property
    def stepped(self) -> bool:
        """Whether parameters, optimizer state and schedule moved."""
        return self.due and (self.made_again or self._read("found_inf") == 0)

    @property
    def skipped(self) -> bool:
        """Whether a step was due but left everything untouched: a gradient was not finite."""
        return self.due and not self.stepped

    @property
    def grad_norm(self) -> float:
        """Joint norm of the gradients before clipping, after unscaling and averaging."""
        return self._read("grad_norm")

    @property
    def clip_coefficient(self) -> float:
        """Factor in (0, 1] that clipping multiplied the gradients by; 1 means untouched."""
        return self._read("clip_coefficient")

    @property
    def loss_scale(self) -> float:
        """Loss scale that the step's gradients were computed with; 1 except in fp16."""
        return 1.0 if self._loss_scale is None else float(self._loss_scale)

    @property
    def loss(self) -> float:
        """Mean loss over the samples or tokens of the window."""
        return self._read("loss")

    def __repr__(self) -> str:
        """Show all fields; reads them from the device."""
        if not self.due:
            return f"StepResult(due=False, lr={self.lr:g})"
        return (
            f"StepResult(stepped={self.stepped}, skipped={self.skipped}, loss={self.loss:g}, "
            f"grad_norm={self.grad_norm:g}, clip_coefficient={self.clip_coefficient:g}, "
            f"loss_scale={self.loss_scale:g}, lr={self.lr:g})"
        )
