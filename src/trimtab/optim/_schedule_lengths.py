"""Lengths of a schedule as the user gives them: steps, tokens, or shares of the run."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Final

from trimtab.errors import ConfigError
from trimtab.optim._schedule_curve import Unit

Length = int | float
"""A whole number of steps or tokens, or a float in [0, 1]: a share of the whole run."""

USUAL_DECAY: Final = 0.2
"""Share of the run in which `wsd` falls. Hägele et al. 2024, arXiv:2405.18392, section 3."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths in whole steps or tokens."""

    unit: Unit
    """What they are counted in."""
    warmup: int
    """Of the warm-up."""
    total: int | None
    """Of the run; None for one without an end."""


def read_lengths(
    warmup_steps: Length | None, total_steps: Length | None, *, tokens: tuple[Length | None, ...]
) -> Lengths:
    """Check the lengths of a run that has an end.

    Args:
        warmup_steps: None if tokens are counted.
        total_steps: None if tokens are counted.
        tokens: Warm-up and total in tokens; both None if steps are counted.

    Raises:
        ConfigError: They are missing, mixed, out of range, or the warm-up is longer than the run.
    """
    unit = _unit(warmup_steps, total_steps, tokens=tokens)
    warmup, total = (warmup_steps, total_steps) if unit == "steps" else tokens
    whole = _total(f"total_{unit}", total)
    start = read_length(f"warmup_{unit}", warmup, total=whole)
    if start > whole:
        raise ConfigError(
            f"warmup_{unit} is {start}, but the run has {whole} {unit}: it would end before it "
            f"reached its learning rate. Lower warmup_{unit}, or give it as a share of the run, "
            "such as 0.1."
        )
    return Lengths(unit=unit, warmup=start, total=whole)


def read_endless(warmup_steps: Length | None, warmup_tokens: Length | None) -> Lengths:
    """Check the warm-up of a run without an end.

    Raises:
        ConfigError: It is missing, given twice, out of range, or a share.
    """
    unit = _unit(warmup_steps, tokens=(warmup_tokens,))
    warmup = warmup_steps if unit == "steps" else warmup_tokens
    return Lengths(unit=unit, warmup=read_length(f"warmup_{unit}", warmup, total=None), total=None)


def read_decay(lengths: Lengths, decay_steps: Length | None, decay_tokens: Length | None) -> int:
    """Return the length of the fall at the end of a run.

    Args:
        lengths: Of a run with an end.
        decay_steps: None for a fifth of the run, or what the warm-up leaves of it.
        decay_tokens: The same for a run that is counted in tokens.

    Raises:
        ConfigError: It is in the other unit, out of range, or does not fit behind the warm-up.
    """
    total = lengths.total
    assert total is not None
    ours, other = decay_steps, decay_tokens
    if lengths.unit == "tokens":
        ours, other = decay_tokens, decay_steps
    if other is not None:
        raise ConfigError(
            f"The run is counted in {lengths.unit}, but its decay is given in another unit. Pass "
            f"decay_{lengths.unit}, or leave the decay out."
        )
    room = total - lengths.warmup
    if ours is None:
        return min(read_length("decay", USUAL_DECAY, total=total), room)
    decay = read_length(f"decay_{lengths.unit}", ours, total=total)
    if decay > room:
        raise ConfigError(
            f"A warm-up of {lengths.warmup} and a decay of {decay} {lengths.unit} do not fit into "
            f"a run of {total}. Lower decay_{lengths.unit} to {room} or less, or shorten the "
            "warm-up."
        )
    return decay


def read_length(name: str, value: object, *, total: int | None) -> int:
    """Return a length in whole units.

    Args:
        name: The argument's name, for the message.
        value: A whole number, or a float in [0, 1]: a share of `total`.
        total: Length of the run; None if it has no end.

    Returns:
        A share is rounded, but to no less than 1 if it is not 0.

    Raises:
        ConfigError: It is neither, or a share of a run without an end.
    """
    number = _number(value)
    if isinstance(number, int) and number >= 0:
        return number
    if isinstance(number, float) and number > 1 and number.is_integer():
        return int(number)
    if isinstance(number, float) and 0 <= number <= 1:
        if total is None and number > 0:
            raise ConfigError(
                f"{name}={value!r} is a share of the run, but this schedule does not know how long "
                "the run is. Give a whole number."
            )
        return max(1, round(number * total)) if total and number > 0 else 0
    raise ConfigError(
        f"{name} must be a whole number, 0 or more, or a float in [0, 1] for a share of the run; "
        f"got {value!r}."
    )


def _total(name: str, value: object) -> int:
    number = _number(value)
    if number is None or not number >= 1 or number != number // 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}.")
    return int(number)


def _number(value: object) -> int | float | None:
    """Return a plain finite number, whatever library `value` is from; None if it is not one."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _unit(*steps: Length | None, tokens: tuple[Length | None, ...]) -> Unit:
    """Return what the lengths are given in.

    Raises:
        ConfigError: In both, or one of them is missing.
    """
    names = ("warmup", "total")
    given: dict[Unit, list[bool]] = {
        "steps": [x is not None for x in steps],
        "tokens": [x is not None for x in tokens],
    }
    if any(given["steps"]) and any(given["tokens"]):
        raise ConfigError(
            "The schedule is given lengths in steps and in tokens. Give all of them in one unit."
        )
    unit: Unit = "tokens" if any(given["tokens"]) else "steps"
    for name, present in zip(names, given[unit], strict=False):
        if not present:
            none = f"; {name}_{unit}=0 is none" if name == "warmup" else ""
            raise ConfigError(f"{name}_{unit} is missing. Pass it{none}.")
    return unit
