"""Schedules by name: ours and those of Transformers, for settings that come from a file."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch

from trimtab.errors import ConfigError
from trimtab.optim._schedule_base import Schedule
from trimtab.optim._schedules import (
    inverse_sqrt,
    polynomial,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    wsd,
)

BUILDERS: Final[Mapping[str, Callable[..., Schedule]]] = {
    "inverse_sqrt": inverse_sqrt,
    "polynomial": polynomial,
    "warmup_constant": warmup_constant,
    "warmup_cosine": warmup_cosine,
    "warmup_linear": warmup_linear,
    "wsd": wsd,
}

TRANSFORMERS_NAMES: Final = {
    "constant": "warmup_constant",
    "constant_with_warmup": "warmup_constant",
    "cosine": "warmup_cosine",
    "cosine_with_min_lr": "warmup_cosine",
    "linear": "warmup_linear",
    "warmup_stable_decay": "wsd",
}

TRANSFORMERS_KEYWORDS: Final = {
    "decay_type": "decay",
    "min_lr_rate": "min_ratio",
    "min_lr_ratio": "min_ratio",
    "num_decay_steps": "decay_steps",
    "num_training_steps": "total_steps",
    "num_warmup_steps": "warmup_steps",
}

FLOORS: Final = ("lr_end", "min_lr")
"""Keywords for the floor as a learning rate, where ours is a share of the peak."""


def schedule(name: str, optimizer: torch.optim.Optimizer, **settings: Any) -> Schedule:
    """Build a schedule by its name.

    Known are the functions of this package, and Transformers' `constant`, `constant_with_warmup`,
    `linear`, `cosine`, `cosine_with_min_lr`, `polynomial`, `inverse_sqrt` and
    `warmup_stable_decay`, equal to that library's step by step. That library's keywords
    (`num_warmup_steps`, `num_training_steps`, `min_lr`, ...) are understood as well. Two
    differences: `polynomial` ends at 0 unless `lr_end` is given, and a floor is never left again.

    Args:
        name: In lower case.
        optimizer: Its learning rates are the peaks.
        settings: Keywords of the function of that name.

    Raises:
        ConfigError: The name or a keyword is unknown, or a value is missing or out of range.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> linear = schedule("linear", optimizer, num_warmup_steps=2, num_training_steps=10)
        >>> linear.get_last_lr()
        [0.0]
    """
    if not isinstance(name, str) or name not in {*BUILDERS, *TRANSFORMERS_NAMES}:
        known = sorted({*BUILDERS, *TRANSFORMERS_NAMES})
        raise ConfigError(
            f"There is no schedule {name!r}. Known are {', '.join(known)}.{_nearest(name, known)}"
        )
    builder = BUILDERS[TRANSFORMERS_NAMES.get(name, name)]
    allowed = list(inspect.signature(builder).parameters)[1:]
    floors = [key for key in FLOORS if key in settings and "min_ratio" in allowed]
    translated: dict[str, Any] = {}
    for key, value in settings.items():
        if key in floors:
            key, value = "min_ratio", _ratio(key, value, optimizer)  # noqa: PLW2901 # renamed
        key = TRANSFORMERS_KEYWORDS.get(key, key)  # noqa: PLW2901 # renamed
        if key not in allowed:
            takes = f"{', '.join(allowed)}.{_nearest(key, allowed)}"
            raise ConfigError(f"The schedule {name!r} has no setting {key!r}. It takes {takes}")
        if key in translated:
            raise ConfigError(f"The schedule {name!r} is given {key} twice, under two names.")
        translated[key] = value
    return builder(optimizer, **_as_there(name, translated))


def _as_there(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with what Transformers means by a name.

    Raises:
        ConfigError: One is missing or has no effect.
    """
    if name == "constant":
        if settings.keys() & {"warmup_steps", "warmup_tokens"}:
            raise ConfigError(
                'The schedule "constant" has no warm-up. Ask for "constant_with_warmup".'
            )
        return {"warmup_steps": 0} | settings
    if name == "cosine_with_min_lr" and "min_ratio" not in settings:
        raise ConfigError(
            'The schedule "cosine_with_min_lr" needs its floor. Pass min_ratio, a share of the '
            "peak, or min_lr."
        )
    if name == "warmup_stable_decay":  # there, the warm-up starts at the floor
        return {"decay": "cosine", "start_ratio": settings.get("min_ratio", 0.0)} | settings
    return settings


def _ratio(key: str, floor: Any, optimizer: torch.optim.Optimizer) -> float:
    """Return a floor as a share of the optimizer's own learning rate, as Transformers does.

    Raises:
        ConfigError: It is not a number from 0 to that learning rate.
    """
    peak = float(optimizer.defaults["lr"])
    number = isinstance(floor, int | float) and not isinstance(floor, bool)
    if not number or not 0 <= floor <= peak or not peak:
        raise ConfigError(
            f"{key} must be a learning rate between 0 and the optimizer's {peak:g}, got {floor!r}."
        )
    return float(floor / peak)


def _nearest(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name).lower(), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
