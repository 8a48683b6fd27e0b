"""What a policy is: the judge of whether a step is an outlier."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from trimtab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a policy holds for normal at this moment, as numbers."""

    loss: float = math.inf
    """Above it a step is an outlier; infinite while the loss is not judged."""
    norm: float = math.inf
    """The same of the gradient norm."""
    loss_level: float = math.nan
    """Middle of the accepted losses; NaN while there are none."""
    norm_level: float = math.nan
    """Middle of the accepted norms; NaN while there are none."""


class Policy(ABC):
    """Decides, on the device, whether a step is an outlier.

    A subclass gives its memory, tensors by name, to this class, changes it in `judge`, and so need
    not care about devices, saving and copying. Only what the host knows by itself, such as the
    number of calls, can be a number.

    Args:
        memory: What is remembered before the first step: tensors and numbers.

    Examples:
        >>> class FarAboveTheLast(Policy):
        ...     name = "far-above-the-last"
        ...
        ...     def __init__(self) -> None:
        ...         super().__init__(last=torch.tensor(torch.inf))
        ...
        ...     def judge(self, loss, norm):
        ...         loss, norm, finite = self.prepare(loss, norm)
        ...         outlier = ~finite | (norm > 10 * self.memory["last"])
        ...         self.memory["last"] = torch.where(outlier, self.memory["last"], norm)
        ...         return outlier.float()
        ...
        ...     def accept(self) -> None:
        ...         self.memory["last"] = torch.full_like(self.memory["last"], torch.inf)
        ...
        ...     def limits(self) -> Limits:
        ...         return Limits(norm=10 * float(self.memory["last"]))
        >>> policy = FarAboveTheLast()
        >>> [policy.judge(None, torch.tensor(norm)).item() for norm in (1.0, 20.0, 2.0)]
        [0.0, 1.0, 0.0]
    """

    name: ClassVar[str]
    """What the policy is called in settings and reports."""

    def __init__(self, **memory: Any) -> None:
        self._initial = memory
        self.memory: dict[str, Any] = {name: _copy(value) for name, value in memory.items()}

    @abstractmethod
    def judge(self, loss: Tensor | None, norm: Tensor) -> Tensor:
        """Judge one step, and remember it.

        What is not finite is an outlier and enters no memory of what is normal. Nothing here may
        wait for the device.

        Args:
            loss: Of the step, 0-d; None if it is not known.
            norm: Joint gradient norm before clipping, 0-d.

        Returns:
            1 if the step should be left out, else 0; 0-d, float32, on the device of `norm`.
        """

    @abstractmethod
    def accept(self) -> None:
        """Take the level of the values that were flagged last as the new one."""

    @abstractmethod
    def limits(self) -> Limits:
        """Return what is normal now; may wait for the device."""

    def fresh(self, *, times: int = 1) -> Self:
        """Return a policy with the same settings that remembers nothing, on the same device.

        Args:
            times: How many judgements count as one step, as with micro-batches; a policy that
                counts outliers in a row may want to be as many times as patient.
        """
        assert times >= 1
        other = copy.copy(self)
        other.memory = {
            name: _like(value, self.memory[name]) for name, value in self._initial.items()
        }
        return other

    def to(self, device: torch.device | str) -> None:
        """Move what is remembered to a device."""
        for name, value in self.memory.items():
            if isinstance(value, Tensor):
                self.memory[name] = value.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of what is remembered, on the device."""
        return {name: _copy(value) for name, value in self.memory.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, on the device of what was remembered before.

        Raises:
            ConfigError: The state is that of another policy, or of one with other settings.
        """
        if (seen := _shapes(state)) != (known := _shapes(self.memory)):
            raise ConfigError(
                f"The state of the policy {self.name!r} holds {known}, got {seen}. Load it into a "
                f"policy with the settings that it was saved with."
            )
        self.memory = {name: _like(state[name], value) for name, value in self.memory.items()}

    def prepare(self, loss: Tensor | None, norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bring memory and values to one device and type.

        Returns:
            Loss, NaN if it is not known, and norm, both float32; and whether what is known is
            finite. All are 0-d, on the device of `norm`.
        """
        device = norm.device
        if any(isinstance(v, Tensor) and v.device != device for v in self.memory.values()):
            self.to(device)
        norm = norm.detach().float()
        if loss is None:
            return torch.full_like(norm, math.nan), norm, norm * 0 == 0
        loss = loss.detach().to(device, torch.float32)
        return loss, norm, (loss + norm) * 0 == 0  # half the operations of isfinite()


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _like(value: Any, other: Any) -> Any:
    """Return a copy of the value, on the device of the other."""
    if isinstance(other, Tensor):
        return torch.as_tensor(value).to(other.device, other.dtype, copy=True)
    return type(other)(value)


def _shapes(state: Mapping[str, Any]) -> str:
    """Return names and shapes, in words."""
    parts = [
        f"{name} {tuple(value.shape) if isinstance(value, Tensor) else 'a number'}"
        for name, value in sorted(state.items())
    ]
    return ", ".join(parts) or "nothing"


Judge = Callable[[Tensor | None, Tensor], Tensor]
"""Says of a loss, None if it is not known, and a gradient norm whether the step is an outlier."""


class FunctionPolicy(Policy):
    """A policy made of a function that remembers nothing; what is not finite is an outlier too.

    Args:
        function: Takes loss, None if it is not known, and gradient norm, both 0-d, float32; returns
            a 0-d tensor that is true or not 0 for an outlier. It must not wait for the device.
    """

    name: ClassVar[str] = "function"

    def __init__(self, function: Judge) -> None:
        super().__init__()
        self.function = function

    @torch.no_grad()
    def judge(self, loss: Tensor | None, norm: Tensor) -> Tensor:
        """Ask the function."""
        known, norm, finite = self.prepare(loss, norm)
        outlier = self.function(None if loss is None else known, norm)
        return (~finite | (outlier != 0)).float()

    def accept(self) -> None:
        """Do nothing: there is no level."""

    def limits(self) -> Limits:
        """Return no limits: they are not known."""
        return Limits()

    def __repr__(self) -> str:
        return f"FunctionPolicy({getattr(self.function, '__name__', repr(self.function))})"
