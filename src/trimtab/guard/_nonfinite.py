"""The least of the policies: only what is not finite is left out."""

from typing import ClassVar

import torch
from torch import Tensor

from trimtab.guard._policy import Limits, Policy


class Nonfinite(Policy):
    """Leaves out the steps whose loss or gradient norm is not finite, and no other."""

    name: ClassVar[str] = "nonfinite"

    @torch.no_grad()
    def judge(self, loss: Tensor | None, norm: Tensor) -> Tensor:
        """Return 1 if a value is not finite."""
        *_, finite = self.prepare(loss, norm)
        return (~finite).float()

    def accept(self) -> None:
        """Do nothing: there is no level."""

    def limits(self) -> Limits:
        """Return that every finite value is normal."""
        return Limits()

    def __repr__(self) -> str:
        return "Nonfinite()"
