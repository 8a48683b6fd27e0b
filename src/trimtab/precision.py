"""Mixed precision: which dtype the forward pass runs in, and the dynamic loss scale fp16 needs."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from trimtab.errors import ConfigError

__all__ = ["LossScaler", "Precision", "autocast", "best_precision", "check_precision"]

Precision = Literal["fp32", "bf16", "fp16"]
"""What the forward pass runs in."""

_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> Precision:
    """Return `precision` if it is a known name.

    Raises:
        ConfigError: The name is unknown.
    """
    for known in get_args(Precision):
        if precision == known:
            return known  # type: ignore[no-any-return] # get_args() is typed as Any
    raise ConfigError(
        f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}."
    )


def best_precision(device: torch.device | str) -> Precision:
    """Return the fastest precision that is safe without tuning on `device`.

    bf16 on an accelerator that has it: it keeps float32's range, so nothing overflows. float32
    elsewhere; a CPU without bf16 units is slower in bf16 than in float32.
    """
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp32"


def autocast(device_type: str, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context that a forward pass and its loss run in.

    Parameters stay in float32; only the operations that are safe in 16 bits run in 16 bits.

    Args:
        device_type: `"cpu"`, `"cuda"`, `"mps"`, ...
        precision: `"fp32"` gives a context that does nothing.

    Raises:
        ConfigError: `precision` is unknown.
    """
    dtype = _DTYPES.get(check_precision(precision))
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype)


class LossScaler:
    """The dynamic loss scale that keeps small fp16 gradients from becoming zero.

    The loss is multiplied by the scale before the backward pass and the gradients are divided by it
    before anything looks at them. A step whose gradients overflow is skipped and the scale is
    multiplied by `backoff`; after `interval` good steps in a row it is multiplied by `growth`.
    Nothing here waits for the device.

    `hysteresis` overflows are forgiven before the scale falls (DeepSpeed uses 2), and it never
    falls below `min_scale`. With the defaults it moves step by step like `torch.amp.GradScaler`.

    Args:
        init_scale: Scale of the first step.
        growth: Factor after `interval` good steps; more than 1.
        backoff: Factor after an overflow; between 0 and 1.
        interval: Good steps in a row before the scale grows.
        hysteresis: Overflows before the scale falls; at least 1.
        min_scale: The scale never falls below.

    Raises:
        ConfigError: A value is outside its range.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        *,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
        hysteresis: int = 1,
        min_scale: float = 1.0,
    ) -> None:
        ranges = {
            "init_scale": (init_scale, math.isfinite(init_scale) and init_scale > 0, "positive"),
            "growth": (growth, math.isfinite(growth) and growth > 1, "more than 1"),
            "backoff": (backoff, 0 < backoff < 1, "between 0 and 1"),
            "interval": (interval, interval >= 1, "at least 1"),
            "hysteresis": (hysteresis, hysteresis >= 1, "at least 1"),
            "min_scale": (min_scale, 0 < min_scale <= init_scale, "positive, at most init_scale"),
        }
        for name, (value, valid, expected) in ranges.items():
            if not valid:
                raise ConfigError(f"{name} of the loss scaler must be {expected}, got {value}.")
        self.growth, self.backoff, self.interval = growth, backoff, interval
        self.hysteresis, self.min_scale = hysteresis, min_scale
        self.scale = torch.tensor(float(init_scale))
        self._good_steps = torch.zeros(())
        self._forgiven = torch.zeros(())

    def to(self, device: torch.device) -> None:
        """Move the state to `device`, so that no step has to."""
        self.scale = self.scale.to(device)
        self._good_steps = self._good_steps.to(device)
        self._forgiven = self._forgiven.to(device)

    @torch.no_grad()
    def update(self, found_inf: Tensor) -> None:
        """Move the scale after one step.

        Args:
            found_inf: 0-d; not zero if the step's gradients overflowed.
        """
        bad = found_inf.to(self.scale.device) != 0
        forgiven = torch.where(bad, self._forgiven + 1, self._forgiven)
        falls = bad & (forgiven >= self.hysteresis)
        good = torch.where(bad, torch.zeros_like(self._good_steps), self._good_steps + 1)
        grown = self.scale * self.growth
        grows = (good >= self.interval) & grown.isfinite()
        fallen = (self.scale * self.backoff).clamp(min=self.min_scale)
        self.scale = torch.where(falls, fallen, torch.where(grows, grown, self.scale))
        full_window = good >= self.interval
        self._good_steps = torch.where(full_window, torch.zeros_like(good), good)
        self._forgiven = torch.where(
            full_window, torch.zeros_like(forgiven), forgiven.clamp(max=self.hysteresis - 1)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its counters as tensors."""
        return {"scale": self.scale, "good_steps": self._good_steps, "forgiven": self._forgiven}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, on the device the scaler is on."""
        device = self.scale.device
        self.scale = state["scale"].to(device)
        self._good_steps = state["good_steps"].to(device)
        self._forgiven = state["forgiven"].to(device)
