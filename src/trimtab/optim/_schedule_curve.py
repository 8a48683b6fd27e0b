"""The factor on the learning rate as a pure function of how far the run has come."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

from trimtab.errors import ConfigError

Unit = Literal["steps", "tokens"]


def linear_fall(done: int, length: int) -> float:
    """Return the share that is left of a straight fall, from 1 at 0 to 0 at `length`."""
    return (length - done) / length


def cosine_fall(done: int, length: int) -> float:
    """Return the share that is left of half a cosine wave."""
    return 0.5 * (1.0 + math.cos(math.pi * (done / length)))


def one_minus_sqrt_fall(done: int, length: int) -> float:
    """Return the share that is left of a fall that is steep first and flat at its end."""
    return 1.0 - math.sqrt(done / length)


FALLS: Final[Mapping[str, Callable[[int, int], float]]] = {
    "1-sqrt": one_minus_sqrt_fall,
    "cosine": cosine_fall,
    "linear": linear_fall,
}
"""How a schedule with an end comes down; each takes what is done of the fall, and its length."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Warm-up, plateau, fall, floor; every schedule is one of these.

    With an end, the fall takes the last `decay` units before `total`, and from `total` on the
    factor is `min_ratio` for good. Without one it stays 1, or falls with `timescale` for ever.
    """

    name: str
    """The function that built it."""
    unit: Unit
    """What positions and lengths are counted in."""
    warmup: int
    """Length of the rise from `start_ratio` to 1."""
    total: int | None = None
    """Length of the run; None for one without an end."""
    decay: int = 0
    """Length of the fall."""
    fall: str = "linear"
    """Its shape, a key of `FALLS`."""
    power: float = 1.0
    """Exponent on what is left of the fall."""
    timescale: int | None = None
    """Length over which an inverse square root begins to fall; None if it is not one."""
    start_ratio: float = 0.0
    """Factor at position 0."""
    min_ratio: float = 0.0
    """The floor."""

    def __post_init__(self) -> None:
        for name in ("start_ratio", "min_ratio"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise ConfigError(
                    f"{name} is a share of the peak learning rate and must lie in [0, 1], got "
                    f"{value!r}."
                )
        if not _is_number(self.power) or not (math.isfinite(self.power) and self.power > 0):
            raise ConfigError(f"power must be finite and positive, got {self.power!r}.")
        if self.fall not in FALLS:
            raise ConfigError(f"decay must be one of {', '.join(FALLS)}; got {self.fall!r}.")

    def factor(self, position: int) -> float:
        """Return the factor on the initial learning rate, in [0, 1].

        Args:
            position: Steps or tokens already done; 0 before the first step.
        """
        if position < self.warmup:
            return self.start_ratio + (1 - self.start_ratio) * position / self.warmup
        if self.timescale is not None:
            since = position - self.warmup
            return max(self.min_ratio, math.sqrt(self.timescale / (self.timescale + since)))
        if self.total is None or position < self.total - self.decay:
            return 1.0
        if position >= self.total:
            return self.min_ratio
        left = FALLS[self.fall](position - (self.total - self.decay), self.decay)
        left = math.pow(left, self.power)
        return (1 - self.min_ratio) * left + self.min_ratio

    def settings(self) -> dict[str, Any]:
        """Return the fields as plain numbers and strings."""
        return asdict(self)

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Return, for each setting that differs from `saved`, its name and both values."""
        pairs = ((f.name, saved.get(f.name), getattr(self, f.name)) for f in fields(self))
        return [f"{name} {old!r} there, {new!r} here" for name, old, new in pairs if old != new]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
