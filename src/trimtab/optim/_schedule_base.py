"""The `LRScheduler` that follows a curve, by steps or by tokens."""

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from trimtab.errors import ConfigError, StateError
from trimtab.optim._schedule_curve import Curve


class Schedule(LRScheduler):
    """Multiplies each param group's initial learning rate by one factor.

    Built by `warmup_cosine` and its neighbours. Each learning rate is computed from the position
    alone, never from the one before, so nothing drifts and a resumed run goes on bit for bit. A
    param group that joins later starts at its own learning rate and follows from the next step on.

    A state is refused by a schedule with other settings. To change them in the middle of a run on
    purpose, put the new ones into the state: `state["curve"] = schedule.state_dict()["curve"]`.

    Args:
        optimizer: Its learning rates are the peaks.
        curve: Factor by position.
        last_epoch: Last step that is done; -1 for a new run. Needs `initial_lr` in each group, as
            an optimizer has it that was saved with a schedule.

    Attributes:
        counts_tokens: Whether `step_tokens` moves it, in place of `step`.
        tokens: Tokens so far; 0 if steps are counted.

    Raises:
        ConfigError: A learning rate is negative or not finite, or `last_epoch` cannot be used.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, curve: Curve, *, last_epoch: int = -1
    ) -> None:
        _check_optimizer(optimizer)
        _check_last_epoch(optimizer, curve, last_epoch)
        self.curve: Final = curve
        self.counts_tokens: Final = curve.unit == "tokens"
        self.tokens = 0
        self._step_count = 0
        super().__init__(optimizer, last_epoch)

    def factor(self) -> float:
        """Return the factor of the next step, in [0, 1]."""
        return self.curve.factor(self.tokens if self.counts_tokens else self.last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each param group for the next step."""
        self._adopt_new_groups()
        factor = self.factor()
        return [base * factor for base in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Move on by one step; call it after `optimizer.step()`.

        Args:
            epoch: Step to jump to; deprecated by PyTorch, which uses it inside `SequentialLR`.

        Raises:
            StateError: The schedule counts tokens.
            ConfigError: A param group has joined whose learning rate cannot be used.
        """
        if self.counts_tokens and self._step_count > 0:  # the first one is LRScheduler.__init__'s
            raise StateError(
                "This schedule counts tokens, so step() cannot move it. Call "
                "step_tokens(num_tokens) once for each optimizer step, or let the Stepper do it."
            )
        self._adopt_new_groups()
        super().step(epoch)

    def step_tokens(self, num_tokens: int) -> None:
        """Move on by the tokens of one optimizer step; call it after `optimizer.step()`.

        Args:
            num_tokens: Tokens, on all ranks, that the step was made from; 0 or more.

        Raises:
            ConfigError: `num_tokens` is no such number.
            StateError: The schedule counts steps.
        """
        if not self.counts_tokens:
            raise StateError(
                "This schedule counts steps, so step_tokens() cannot move it. Call step(), or "
                "build it with warmup_tokens and total_tokens."
            )
        if not isinstance(num_tokens, Integral) or isinstance(num_tokens, bool) or num_tokens < 0:
            raise ConfigError(
                f"num_tokens must be a whole number, 0 or more, got {num_tokens!r}. Pass one "
                "step's own tokens, not the sum so far."
            )
        self._adopt_new_groups()
        self.tokens += int(num_tokens)
        super().step()

    def _adopt_new_groups(self) -> None:
        """Take in param groups that were added since the last step.

        Raises:
            ConfigError: The learning rate of one is negative or not finite.
        """
        groups = self.optimizer.param_groups
        for index in range(len(self.base_lrs), len(groups)):
            base = groups[index].get("initial_lr", groups[index]["lr"])
            _check_rate(index, base)
            base = base.clone() if isinstance(base, Tensor) else base
            self.base_lrs.append(groups[index].setdefault("initial_lr", base))

    def state_dict(self) -> dict[str, Any]:
        """Return position and settings: numbers, strings, and learning rates as they are."""
        return {
            "curve": self.curve.settings(),
            "last_epoch": self.last_epoch,
            "tokens": self.tokens,
            "base_lrs": _copies(self.base_lrs),
            "_last_lr": _copies(self._last_lr),
            "_step_count": self._step_count,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Whether the optimizer's state is loaded before or after does not matter.

        Raises:
            ConfigError: The state is not a schedule's, or one of other settings or param groups.
        """
        missing = [key for key in self.state_dict() if key not in state_dict]
        if missing:
            raise ConfigError(
                f"This is not the state of a trimtab schedule: {', '.join(missing)} is missing. "
                "Pass what state_dict() of the same schedule returned."
            )
        if differences := self.curve.differences(state_dict["curve"]):
            raise ConfigError(
                f"The saved schedule has other settings: {'; '.join(differences)}. Build it with "
                "the settings it was saved with, or put the new ones into the state on purpose: "
                'state["curve"] = schedule.state_dict()["curve"].'
            )
        bases, groups = state_dict["base_lrs"], self.optimizer.param_groups
        if len(bases) > len(groups):
            raise ConfigError(
                f"The saved schedule moved {len(bases)} param groups, the optimizer has "
                f"{len(groups)}. Add the missing ones first."
            )
        written = self._last_lr
        self.base_lrs = _copies(bases)
        self._last_lr = _copies(state_dict["_last_lr"])
        self.last_epoch, self.tokens = state_dict["last_epoch"], state_dict["tokens"]
        self._step_count = state_dict["_step_count"]
        # A rate that this schedule wrote when it was built is not one that the optimizer loaded.
        for group, was, lr in zip(groups, written, self._last_lr, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(torch.where(group["lr"] == was, lr, group["lr"]))
            elif group["lr"] == was:
                group["lr"] = lr


def _check_optimizer(optimizer: object) -> None:
    """Refuse what is not an optimizer, and learning rates that no factor makes usable.

    Raises:
        ConfigError: It is another object, or a rate is negative or not finite.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"A schedule moves a torch.optim.Optimizer, got {type(optimizer).__name__}."
        )
    for index, group in enumerate(optimizer.param_groups):
        _check_rate(index, group["lr"])
        _check_rate(index, group.get("initial_lr", group["lr"]))


def _check_rate(index: int, rate: float | Tensor) -> None:
    value = float(rate)
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(
            f"The learning rate of param group {index} must be finite and not negative, got "
            f"{value}. Set it when you build the optimizer."
        )


def _check_last_epoch(optimizer: torch.optim.Optimizer, curve: Curve, last_epoch: int) -> None:
    """Refuse to resume from where the position cannot be known.

    Raises:
        ConfigError: `last_epoch` is no step, tokens are counted, or the peaks are not known.
    """
    if not isinstance(last_epoch, int) or isinstance(last_epoch, bool) or last_epoch < -1:
        raise ConfigError(
            f"last_epoch must be a whole number, -1 for a new run, got {last_epoch!r}."
        )
    if last_epoch == -1:
        return
    if curve.unit == "tokens":
        raise ConfigError(
            f"last_epoch={last_epoch} does not say how many tokens were seen. Build the schedule "
            "without it and call load_state_dict()."
        )
    for index, group in enumerate(optimizer.param_groups):
        if "initial_lr" not in group:
            raise ConfigError(
                f"last_epoch={last_epoch} resumes a run, but param group {index} has no "
                "initial_lr to start from. Load the optimizer's state first, or build the schedule "
                "without last_epoch and call load_state_dict()."
            )


def _copies(rates: list[float | Tensor]) -> list[float | Tensor]:
    return [r.clone() if isinstance(r, Tensor) else r for r in rates]
