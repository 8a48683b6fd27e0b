"""Rerun: make steps of the tape again, as they were or with one thing changed."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.checkpoint import restore_random_state
from trimtab.engine import _ranks
from trimtab.engine._update import Updater, folds_steps
from trimtab.engine._window import Window
from trimtab.guard import BufferKeeper, Change, MicroStep, TapeStep
from trimtab.nn import Attention
from trimtab.optim import Clipper, NormClip
from trimtab.precision import autocast
from trimtab.signals import Recorder


@dataclass
class Replay:
    """What steps did when they were made again."""

    losses: list[float] = field(default_factory=list)
    """Mean loss of each step."""
    norms: list[float] = field(default_factory=list)
    """Gradient norm of each, before clipping; NaN of a step that was left out unseen."""
    skipped: list[bool] = field(default_factory=list)
    """Whether a step touched nothing."""
    first_difference: int | None = None
    """Number of the first step whose loss or norm is not bit for bit the recorded one."""


Decide = Callable[[float, float], bool]
"""From loss and norm of a step to whether it is left out."""


class Rerun:
    """Makes recorded steps again, on the live model and optimizer.

    Whoever calls it has put the state back before, and puts it back afterwards if it shall not
    stay. Gradients that are there are kept aside.

    Args:
        model: As it is called.
        optimizer: Over its parameters.
        clipper: The run's own; None measures only.
        parts: Of the run: `"schedule"` is moved after each step, `"scaler"` adapts.
        recorder: Shall not see the steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clipper: Clipper | None = None,
        parts: Mapping[str, Any] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self.model, self.optimizer, self.clipper = model, optimizer, clipper
        self.parts: Mapping[str, Any] = dict(parts or {})
        self._device = next(p.device for g in optimizer.param_groups for p in g["params"])
        self._ranks = _ranks.num_ranks(model)
        self.at_once = self._device.type == "cpu"
        """Whether the arithmetic of updates is that of a run whose host may look at values."""
        self.active = False
        """Whether steps are being made again at this moment."""
        self._deviates = False  # whether a step was made that had been left out, or the reverse
        self._folds = folds_steps(optimizer)  # before attach() makes it say so to a GradScaler

    def run(
        self,
        steps: Sequence[TapeStep],
        change: Change | None = None,
        *,
        decide: Decide | None = None,
        after_step: Callable[[TapeStep], None] | None = None,
    ) -> Replay:
        """Make the steps again, one after the other.

        Args:
            steps: In their order; the state is that before the first.
            change: What is done otherwise; None for nothing.
            decide: Which steps are left out; None leaves those out that the run left out.
            after_step: Called after each step; may raise to break off.

        Returns:
            Losses and norms, and whether they are the recorded ones.
        """
        change = change or Change()
        replay = Replay()
        self._deviates = False
        with self._quiet(), self._attention_capped(change.attention_cap):
            if change.fresh_moments:
                self.optimizer.state.clear()
            keeper = BufferKeeper(self.model)
            try:
                for step in steps:
                    if step.number not in change.without:
                        self._step(step, change, decide, keeper, replay)
                    if after_step is not None:
                        after_step(step)
            finally:
                keeper.close()
        return replay

    @property
    def max_norm(self) -> float:
        """Norm to which the run clips its gradients anyway; infinite if to none in particular."""
        return float(getattr(self.clipper, "max_norm", math.inf))

    @property
    def caps_attention(self) -> bool:
        """Whether the model has attention whose logits can be capped and are not."""
        return any(isinstance(m, Attention) and m.softcap is None for m in self.model.modules())

    def measure(
        self, steps: Sequence[TapeStep], change: Change | None = None
    ) -> tuple[list[float], list[float]]:
        """Return losses and gradient norms of steps in the present state, and change nothing."""
        replay = Replay()
        counters, kept = self.parts, {"counters", "schedule", "scaler"}
        self.parts = {k: v for k, v in counters.items() if k not in kept}
        try:
            with self._quiet():
                keeper = BufferKeeper(self.model)
                try:
                    for step in steps:
                        self._step(step, change or Change(), lambda *_: True, keeper, replay)
                finally:
                    keeper.put_back(skip=True)  # if a forward pass was broken off
                    keeper.close()
        finally:
            self.parts = counters
        return replay.losses, replay.norms

    def _step(
        self,
        step: TapeStep,
        change: Change,
        decide: Decide | None,
        keeper: BufferKeeper,
        replay: Replay,
    ) -> None:
        """Make one step again."""
        window, divisor, same = self._backward(step, change, decide)
        loss, weight = window.mean_loss().detach(), window.weight
        updater = Updater(
            self.optimizer, self._clipper(change), at_once=self.at_once, folds=self._folds
        )
        updater.norm_limit = step.norm_limit if change.clip is None else None
        skip = step.skipped
        norm = float("nan")

        def judge(loss: Tensor | None, total: Tensor) -> Tensor:
            nonlocal skip, norm
            norm = float(total if self._ranks == 1 else _ranks.worst(total))
            if decide is not None:
                skip = decide(float(loss) if loss is not None else norm, norm)
            return torch.tensor(float(skip))

        updater.judge = judge
        before = [dict(group) for group in self.optimizer.param_groups]
        self._set_rates(step, change)
        update = updater.apply(divisor=divisor, loss=loss)
        for group, old in zip(self.optimizer.param_groups, before, strict=True):
            group.update({k: v for k, v in old.items() if k != "params"})
        skipped = bool(update.found_inf)
        self._deviates |= skipped != step.skipped
        keeper.put_back(skipped)
        keeper.renew()
        overflow = math.isfinite(float(loss)) and not math.isfinite(norm)
        self._move(weight, skipped=skipped, overflow=overflow)
        self._clear_gradients()
        replay.losses.append(float(loss))
        replay.norms.append(norm)
        replay.skipped.append(skipped)
        same = same and _equal(norm, step.norm)
        if not same and replay.first_difference is None:
            replay.first_difference = step.number

    def _backward(
        self, step: TapeStep, change: Change, decide: Decide | None
    ) -> tuple[Window, float | Tensor, bool]:
        """Add up a step's gradients; return their window, divisor, and if all losses agree."""
        window, same, divisor = Window(), True, step.divisor
        self._clear_gradients()
        for i, micro in enumerate(step.micro_steps):
            if micro.dropped and self._ranks > 1:
                continue  # all ranks have to make the same exchanges
            last = i + 1 == len(step.micro_steps)
            with _ranks.exchange(self.model, last=last):
                value = self._compute(micro, change)
                if micro.dropped and _is_bad_again(micro, float(value.detach()), decide):
                    continue
                wide = value.to(torch.promote_types(value.dtype, torch.float32))
                factor = torch.as_tensor(micro.factor, dtype=wide.dtype, device=wide.device)
                wide.backward(factor.reshape(()))  # type: ignore[no-untyped-call] # torch's
            window.add(micro.weight, value)
            if micro.dropped:
                divisor = math.nan
            same = same and (micro.loss is None or _equal(float(value.detach()), float(micro.loss)))
        if self._ranks > 1:
            total = _ranks.sum_over_ranks([window.weight, window.loss], self._device)
            window.weight, window.loss = total[0], total[1]
        if isinstance(divisor, float) and math.isnan(divisor):  # there is more in it than there was
            made = next(m for m in step.micro_steps if m.weight)
            divisor = window.weight * made.factor / made.weight
        return window, divisor, same

    def _compute(self, micro: MicroStep, change: Change) -> Tensor:
        restore_random_state(micro.random)
        with autocast(self._device.type, change.precision or micro.precision):
            return micro.compute().reshape(())

    def _clipper(self, change: Change) -> Clipper | None:
        return self.clipper if change.clip is None else NormClip(change.clip)

    def _set_rates(self, step: TapeStep, change: Change) -> None:
        """Give each group the settings that the step had, changed as is asked for."""
        follows = self._deviates and "schedule" in self.parts  # which is elsewhere than it was then
        for group, settings in zip(self.optimizer.param_groups, step.settings, strict=False):
            if not follows:
                group.update(settings)
            rate = float(group["lr"]) * change.lr
            if change.lr_cap is not None:
                rate = min(rate, change.lr_cap)
            if isinstance(group["lr"], Tensor):
                group["lr"] = torch.full_like(group["lr"], rate)
            elif rate != group["lr"]:
                group["lr"] = rate

    def _move(self, weight: float | Tensor, *, skipped: bool, overflow: bool) -> None:
        """Move schedule, loss scale and counter as the step did."""
        schedule, scaler = self.parts.get("schedule"), self.parts.get("scaler")
        if scaler is not None:
            scaler.update(torch.tensor(float(overflow)))
        counters = self.parts.get("counters")
        if counters is not None and not skipped:
            counters.steps += 1
        if schedule is None or skipped:
            return
        if getattr(schedule, "counts_tokens", False):
            schedule.step_tokens(round(float(weight)))
        else:
            schedule.step()

    def _clear_gradients(self) -> None:
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep gradients and modes aside, and the optimizer's hooks silent."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        grads = [(p, p.grad) for p in params]
        modes = [(module, module.training) for module in self.model.modules()]
        optimizer = self.optimizer
        hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        # Others in their place: a replay may begin while torch goes through them.
        optimizer._optimizer_step_pre_hooks = OrderedDict()
        optimizer._optimizer_step_post_hooks = OrderedDict()
        if not self.model.training:
            self.model.train()
        silent = nullcontext() if self._recorder is None else self._recorder.paused()
        self.active = True
        try:
            with torch.enable_grad(), silent:
                yield
        finally:
            self.active = False
            for module, training in modes:
                module.training = training
            optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = hooks
            for p, grad in grads:
                p.grad = grad

    @contextmanager
    def _attention_capped(self, cap: float | None) -> Iterator[None]:
        """Bound the logits of trimtab's own attention layers inside."""
        layers = [m for m in self.model.modules() if isinstance(m, Attention)] if cap else []
        before = [layer.softcap for layer in layers]
        for layer in layers:
            layer.softcap = cap
        try:
            yield
        finally:
            for layer, old in zip(layers, before, strict=True):
                layer.softcap = old


def keep_up(model: nn.Module, change: Change) -> bool:
    """Make a change of the model last: bound the logits of its attention layers.

    Returns:
        Whether the change is one of the model.
    """
    if change.attention_cap is None:
        return False
    for module in model.modules():
        if isinstance(module, Attention) and module.softcap is None:
            module.softcap = change.attention_cap
    return True


def _is_bad_again(micro: MicroStep, loss: float, decide: Decide | None) -> bool:
    """Tell whether a micro-batch that was left out of its step has to be left out again."""
    recorded = math.nan if micro.loss is None else float(micro.loss)
    return _equal(loss, recorded) or (decide is not None and decide(loss, 0.0))


def _equal(a: float, b: float) -> bool:
    """Tell whether two numbers are one, NaN being equal to itself."""
    return a == b or (a != a and b != b)
