"""One thing that a replay does otherwise than the run did."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from trimtab.errors import ConfigError
from trimtab.precision import Precision, check_precision


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a replay changes; with its defaults, nothing.

    Raises:
        ConfigError: A value is out of range.
    """

    lr: float = 1.0
    """Factor of every learning rate."""
    lr_cap: float | None = None
    """Largest learning rate of any group; None sets no limit."""
    clip: float | None = None
    """Largest joint L2 norm of the gradients, in place of the run's own clipping; None keeps it."""
    precision: Precision | None = None
    """What the forward pass runs in; None as the run did."""
    fresh_moments: bool = False
    """Whether the optimizer forgets its moments before the first step."""
    attention_cap: float | None = None
    """Bound of attention logits, by `cap * tanh(logits / cap)`, where trimtab's attention is."""
    without: frozenset[int] = frozenset()
    """Steps that are left out."""
    optimizer: int | None = None
    """Number, from 0, of the optimizer that `lr`, `lr_cap` and `clip` are meant for; None for all
    of them."""

    def __post_init__(self) -> None:
        for name in ("lr", "lr_cap", "clip", "attention_cap"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} of a change must be finite and positive, got {value}.")
        if self.precision is not None:
            check_precision(self.precision)
        if self.optimizer is not None and self.optimizer < 0:
            raise ConfigError(
                f"optimizer of a change must be a number from 0 on, got {self.optimizer}."
            )
        object.__setattr__(self, "without", frozenset(self.without))

    @property
    def is_none(self) -> bool:
        """Whether nothing is changed."""
        return self == Change()

    def __str__(self) -> str:
        """Return it in words."""
        parts = []
        whose = "" if self.optimizer is None else f" of optimizers[{self.optimizer}]"
        if self.without:
            steps = sorted(self.without)
            which = f"step {steps[0]}" if len(steps) == 1 else f"steps {_ranges(steps)}"
            parts.append(f"without the data of {which}")
        if self.lr != 1:
            parts.append(f"learning rate{whose} × {self.lr:g}")
        if self.lr_cap is not None:
            parts.append(f"learning rate{whose} of at most {self.lr_cap:.3g}")
        if self.clip is not None:
            parts.append(f"gradients{whose} clipped to {self.clip:.3g}")
        if self.fresh_moments:
            parts.append("fresh moments of the optimizer")
        if self.precision is not None:
            parts.append(f"in {self.precision}")
        if self.attention_cap is not None:
            parts.append(f"attention logits capped at {self.attention_cap:g}")
        return ", ".join(parts) or "as it was"

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from no change, as what JSON can hold."""
        default = Change()
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in values.items()
            if value != getattr(default, name)
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_dict` was called on."""
        values: dict[str, Any] = dict(data)
        return cls(**values)

    @classmethod
    def parse(cls, settings: Mapping[str, str]) -> Self:
        """Return the change that somebody asks for on the command line.

        Args:
            settings: Such as `{"lr": "0.5"}`; several steps of `without` have commas between them.

        Raises:
            ConfigError: A name is unknown or a value is not of its kind.
        """
        return cls(**{name: _parse(name, text) for name, text in settings.items()})


_KINDS: Final[Mapping[str, str]] = {
    "lr": "a factor, such as 0.5",
    "lr_cap": "a learning rate",
    "clip": "a norm, such as 0.5",
    "attention_cap": "a number, such as 50",
    "precision": "fp32, bf16 or fp16",
    "fresh_moments": "true or false",
    "without": "steps, such as 151,152",
    "optimizer": "a number, from 0",
}


def _parse(name: str, text: str) -> Any:
    if name not in _KINDS:
        raise ConfigError(f"There is no change {name!r}. Known are: {', '.join(_KINDS)}.")
    try:
        if name == "without":
            return frozenset(int(part) for part in text.split(","))
        if name == "optimizer":
            return int(text)
        if name == "fresh_moments":
            return {"true": True, "false": False}[text.lower()]
        return text if name == "precision" else float(text)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{name} must be {_KINDS[name]}, got {text!r}.") from error


def _ranges(steps: list[int]) -> str:
    """Return steps in words: runs of them as first to last."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][1] + 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in runs)
