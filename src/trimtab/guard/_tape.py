"""The last steps, kept so that they can be run again."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from trimtab.errors import ConfigError, StateError
from trimtab.guard._captured import captured
from trimtab.precision import Precision

_RANDOM_BYTES: Final = 2**13
"""Of a random state: torch's has 5,056 bytes, and steps in a row share NumPy's and Python's."""

_DEPTH: Final = 8
"""Levels of nested batches that are looked into."""


@dataclass
class MicroStep:
    """One forward and backward pass."""

    compute: Callable[[], Tensor]
    """Gives the same loss again."""
    factor: float | Tensor
    """The gradient that the loss was given."""
    weight: float | Tensor
    """Samples or tokens in it."""
    random: Any
    """Random states before it."""
    batch: Any = None
    """The tensors that it was computed from, if known."""
    loss: Tensor | float | None = None
    """What it was, without its graph."""
    precision: Precision = "fp32"
    """What its forward pass ran in."""
    dropped: bool | Tensor = False
    """Whether it was left out of its step."""
    fresh: frozenset[int] | None = None
    """With several optimizers, the numbers of those whose gradients were cleared before it. None
    with one, whose gradients are those of its step alone."""


@dataclass
class OwnClip:
    """What a loop does to gradients between its backward pass and the step; one for all steps."""

    max_norm: float | None = None
    """Joint norm that it clips them to; None if it does something that is not known."""


@dataclass
class TapeStep:
    """One optimizer step, or what would have been one had it not been skipped.

    With several optimizers, each `step()` of one of them. Such a step has no micro-steps of its own
    if it uses the gradients that the one before it has left.
    """

    number: int
    """The optimizer step."""
    micro_steps: list[MicroStep]
    settings: list[dict[str, Any]]
    """Of each parameter group, in plain values: learning rate, betas, weight decay, ..."""
    divisor: float | Tensor
    """What the sum of gradients was divided by."""
    loss: float
    norm: float
    """The gradient's, before clipping."""
    skipped: bool
    flagged: bool
    """Whether a policy called it out of line."""
    norm_limit: float | None = None
    """Norm to which its gradients were clipped besides, since an earlier incident."""
    which: int = 0
    """The number of the optimizer that made it."""
    own_clip: OwnClip | None = None
    """What the loop did to its gradients by itself; None for nothing."""
    nbytes: int = field(default=0, init=False)
    """Memory that its batches and random states hold; the tape fills it in."""

    @classmethod
    def begin(
        cls,
        number: int,
        micro_steps: list[MicroStep],
        optimizer: Optimizer,
        *,
        divisor: float | Tensor,
        which: int = 0,
    ) -> Self:
        """Return a step that is about to be made; what it does is not known yet.

        Args:
            number: Of the step.
            micro_steps: Its forward and backward passes.
            optimizer: With the settings that it is made with.
            divisor: What the sum of gradients is divided by.
            which: The optimizer's number.
        """
        return cls(
            number=number,
            micro_steps=micro_steps,
            settings=settings_of(optimizer),
            divisor=divisor,
            loss=math.nan,
            norm=math.nan,
            skipped=False,
            flagged=False,
            which=which,
        )


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each parameter group, without its parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


class Tape:
    """The last steps in a bounded memory; the oldest go first.

    Args:
        max_bytes: Memory of batches and random states.
        max_steps: Steps.

    Raises:
        ConfigError: A bound is not positive.
    """

    def __init__(self, max_bytes: int = 2**29, max_steps: int = 1000) -> None:
        if max_bytes <= 0 or max_steps <= 0:
            raise ConfigError(
                f"max_bytes and max_steps must be positive, got {max_bytes} and {max_steps}. "
                "To keep no tape, make none."
            )
        self.max_bytes, self.max_steps = max_bytes, max_steps
        self.nbytes = 0
        """Memory of all steps that are kept."""
        self._steps: deque[TapeStep] = deque()
        self._lost: int | None = None  # the newest step that was kept once and is no more

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: TapeStep) -> None:
        """Keep a step, and give up the oldest where the memory asks for it.

        Raises:
            StateError: It does not come after the last step.
        """
        if self._steps and step.number <= self._steps[-1].number:
            raise StateError(
                f"Step {step.number} cannot follow step {self._steps[-1].number} on the tape. "
                "After a rollback, call drop_after() with the step that was returned to."
            )
        step.nbytes = _step_bytes(step)
        self._steps.append(step)
        self.nbytes += step.nbytes
        while self._steps and (self.nbytes > self.max_bytes or len(self._steps) > self.max_steps):
            self._drop_first()

    def since(self, number: int) -> list[TapeStep] | None:
        """Return all steps after step `number`, oldest first; None if one of them is lost."""
        if self._lost is not None and number < self._lost:
            return None
        found = [s for s in self._steps if s.number > number]
        whole = all(s.number == number + 1 + i for i, s in enumerate(found))
        return found if whole else None

    def drop_before(self, number: int) -> None:
        """Give up all steps before step `number`."""
        while self._steps and self._steps[0].number < number:
            self._drop_first()

    def drop_after(self, number: int) -> None:
        """Give up all steps after step `number`, as if they had never been."""
        while self._steps and self._steps[-1].number > number:
            self.nbytes -= self._steps.pop().nbytes
        if self._lost is not None and self._lost > number:
            self._lost = number

    def _drop_first(self) -> None:
        step = self._steps.popleft()
        self.nbytes -= step.nbytes
        self._lost = step.number


def _step_bytes(step: TapeStep) -> int:
    seen: set[int] = set()
    total = 0
    for micro in step.micro_steps:
        batch = captured(micro.compute) if micro.batch is None else micro.batch
        total += _nbytes(batch, seen, _DEPTH) + (0 if micro.random is None else _RANDOM_BYTES)
    return total


def _nbytes(value: Any, seen: set[int], depth: int) -> int:
    """Return the bytes of all tensors and arrays in nested values, each counted once."""
    if value is None or depth == 0 or id(value) in seen:
        return 0
    if isinstance(value, Tensor):
        seen.add(id(value))
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        seen.add(id(value))
        return value.nbytes
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_nbytes(v, seen, depth - 1) for v in value.values())
    if isinstance(value, list | tuple):
        if value and all(isinstance(v, int | float) for v in (value[0], value[-1])):
            # Numbers alone, as in a generator's state of some hundred.
            return 8 * len(value)
        return sum(_nbytes(v, seen, depth - 1) for v in value)
    return 0
