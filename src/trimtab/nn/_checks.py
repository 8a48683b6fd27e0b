"""Checks that the modules of `trimtab.nn` make of their arguments before they build anything."""

import difflib
import math
from collections.abc import Iterable

from trimtab.errors import ConfigError


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a name that is not in `known`, and offer the nearest that is.

    Args:
        name: The argument's name, for the message.
        value: What the caller passed.
        known: The legal values.

    Raises:
        ConfigError: `value` is not among them.
    """
    known = sorted(known)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{name} must be one of {', '.join(known)}; got {value!r}.{hint}")


def check_count(name: str, value: int) -> None:
    """Refuse anything but a whole number of at least one.

    Args:
        name: The argument's name, for the message.
        value: What the caller passed.

    Raises:
        ConfigError: `value` is not an integer, or is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}.")


def check_probability(name: str, value: float) -> None:
    """Refuse a number outside [0, 1].

    Args:
        name: The argument's name, for the message.
        value: What the caller passed.

    Raises:
        ConfigError: `value` lies outside [0, 1] or is NaN.
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is a probability and must lie in [0, 1], got {value!r}.")


def check_positive(name: str, value: float) -> None:
    """Refuse zero, negative and non-finite numbers.

    Args:
        name: The argument's name, for the message.
        value: What the caller passed.

    Raises:
        ConfigError: `value` is not finite and positive.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be finite and positive, got {value!r}.")
