"""Checks that the initialisers make of their arguments before they change anything."""

import math
from collections.abc import Iterable

from trimtab.errors import ConfigError


def check_positive(name: str, value: float) -> None:
    """Refuse zero, negative and non-finite numbers.

    Args:
        name: The argument's name, for the message.
        value: What the caller passed.

    Raises:
        ConfigError: `value` is not finite and positive.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(
            f"{name} must be finite and positive, got {value!r}. "
            "For weights of zero, call torch.nn.init.zeros_ on them."
        )


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


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a name that is not in `known`.

    Args:
        name: The argument's name, for the message.
        value: What the caller passed.
        known: The legal values.

    Raises:
        ConfigError: `value` is not among them.
    """
    known = sorted(known)
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
