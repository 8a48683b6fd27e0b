"""One accumulation window: micro-batches weighted by their true number of samples or tokens."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab.errors import ConfigError


@dataclass
class Window:
    """Sums over the micro-batches since the last step.

    Each micro-batch's gradient is added with the factor `weight / reference`, and the sum is
    divided by `total / reference` at the step, which makes it the gradient of the mean over all
    samples. The reference is the first micro-batch's weight, so equal ones are added with the
    factor 1 exactly and the size of the numbers, hence the fp16 loss scale, does not depend on the
    unit.
    """

    count: int = 0
    """Micro-batches so far."""
    weight: float | Tensor = 0.0
    """Sum of their weights."""
    reference: float | Tensor = 0.0
    """Weight that counts as one; 0 until a micro-batch sets it."""
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Sum of weight times loss, 0-d, on the device."""

    def factor(self, weight: float | Tensor) -> float | Tensor:
        """Return the factor of a micro-batch's gradient; the first one sets the reference."""
        if isinstance(self.reference, float) and self.reference == 0:
            self.reference = weight
        if weight is self.reference or (isinstance(weight, float) and weight == self.reference):
            return 1.0
        return weight / self.reference

    def add(self, weight: float | Tensor, loss: Tensor) -> None:
        """Count one micro-batch in, after its backward pass."""
        self.count += 1
        self.weight = self.weight + weight
        wide = loss.detach().to(torch.promote_types(loss.dtype, torch.float32))
        self.loss = self.loss.to(loss.device) + wide * weight

    def divisor(self) -> float | Tensor:
        """Return what the summed gradient has to be divided by."""
        if isinstance(self.reference, float) and self.reference == 0:
            return 1.0
        return self.weight / self.reference

    def mean_loss(self) -> Tensor:
        """Return the mean loss over all samples, 0-d."""
        return self.loss / self.weight


def check_weight(weight: float | Tensor) -> float | Tensor:
    """Return `weight` as a float if the host can know it, else as the 0-d device tensor it is.

    Raises:
        ConfigError: It is negative, not finite or not a single number.
    """
    if isinstance(weight, Tensor):
        if weight.numel() != 1:
            raise ConfigError(
                f"weight must be one number of samples or tokens, got shape {tuple(weight.shape)}."
            )
        if weight.device.type != "cpu":
            return weight.detach().reshape(()).float()
        weight = weight.item()
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(
            "weight is the micro-batch's number of samples or tokens and must be finite and not "
            f"negative, got {weight}."
        )
    return float(weight)
