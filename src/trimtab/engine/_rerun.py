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
from trimtab.guard._replayer import Decide
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


class Rerun:
    """Makes recorded steps again, on the live model and optimizer.

    Whoever calls it has put the state back before, and puts it back afterwards if it shall not
    stay. Gradients that are there are kept aside.

    With several optimizers, each of their steps is made by itself. Gradients then stay from step to
    step, as the loop has left them, and are cleared where the loop has cleared them.

    Args:
        model: As it is called.
        optimizers: Over its parameters.
        clippers: The run's own, one for each optimizer; None measures only.
        parts: Of the run: `"schedule"` is moved after each step, `"scaler"` adapts.
        recorder: Shall not see the steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        clippers: Sequence[Clipper | None] = (),
        parts: Mapping[str, Any] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self.model, self.optimizers = model, list(optimizers)
        self.clippers = list(clippers) or [None] * len(self.optimizers)
        self.parts: Mapping[str, Any] = dict(parts or {})
        self._device = self._params(0)[0].device
        self._ranks = _ranks.num_ranks(model)
        self.at_once = self._device.type == "cpu"
        """Whether the arithmetic of updates is that of a run whose host may look at values."""
        self.active = False
        """Whether steps are being made again at this moment."""
        self._deviates = False  # whether a step was made that had been left out, or the reverse
        # Before attach() makes them say so to a GradScaler.
        self._folds = [folds_steps(optimizer) for optimizer in self.optimizers]
        self._last_window = Window()  # whose gradients the next step may use as well
        self._left: list[tuple[nn.Parameter, Tensor | None]] = []

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
                for optimizer in self.optimizers:
                    optimizer.state.clear()
            self._clear_gradients()
            keeper = BufferKeeper(self.model)
            try:
                for step in steps:
                    if step.number not in change.without:
                        self._step(step, change, decide, keeper, replay)
                    else:
                        for micro in step.micro_steps:
                            self._clear_before(micro)
                    if after_step is not None:
                        after_step(step)
            finally:
                keeper.close()
        return replay

    def hand_over_gradients(self, *, wanted: bool) -> None:
        """Give parameters the gradients that the last replay ended with, or forget these.

        Args:
            wanted: Whether the run goes on from it, so that another optimizer may use them.
        """
        for p, grad in self._left if wanted else ():
            p.grad = grad
        self._left = []

    @property
    def max_norm(self) -> float:
        """Norm to which the run clips its gradients anyway; infinite if to none in particular."""
        return max(float(getattr(clipper, "max_norm", math.inf)) for clipper in self.clippers)

    @property
    def caps_attention(self) -> bool:
        """Whether the model has attention whose logits can be capped and are not."""
        return any(isinstance(m, Attention) and m.softcap is None for m in self.model.modules())

    def measure(
        self, steps: Sequence[TapeStep], change: Change | None = None
    ) -> tuple[list[float], list[float]]:
        """Return losses and gradient norms of steps in the present state, and change nothing.

        Those that have no backward pass of their own are passed over.
        """
        replay = Replay()
        counters, kept = self.parts, {"counters", "schedule", "scaler"}
        self.parts = {k: v for k, v in counters.items() if k not in kept}
        try:
            with self._quiet():
                keeper = BufferKeeper(self.model)
                try:
                    for step in steps:
                        if step.micro_steps:
                            self._clear_gradients()
                            self._step(step, change or Change(), lambda *_: True, keeper, replay)
                finally:
                    keeper.put_back(skip=True)  # if a forward pass was broken off
                    keeper.close()
        finally:
            self.parts, self._left = counters, []
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
        optimizer = self.optimizers[step.which]
        clip = change.clip if change.optimizer in {None, step.which} else None
        updater = Updater(
            optimizer,
            self.clippers[step.which] if clip is None else NormClip(clip),
            at_once=self.at_once,
            folds=self._folds[step.which],
        )
        updater.norm_limit = step.norm_limit if clip is None else None
        if step.own_clip is not None and step.own_clip.max_norm is not None:
            divisor = self._clip_as_the_loop(step.which, divisor, step.own_clip.max_norm)
        skip = step.skipped
        norm = float("nan")

        def judge(loss: Tensor | None, total: Tensor) -> Tensor:
            nonlocal skip, norm
            norm = float(total if self._ranks == 1 else _ranks.worst(total))
            if decide is not None:
                skip = decide(float(loss) if loss is not None else norm, norm, step.which)
            return torch.tensor(float(skip))

        updater.judge = judge
        before = [dict(group) for group in optimizer.param_groups]
        self._set_rates(step, change)
        update = updater.apply(divisor=divisor, loss=loss)
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.update({k: v for k, v in old.items() if k != "params"})
        skipped = bool(update.found_inf)
        self._deviates |= skipped != step.skipped
        keeper.put_back(skipped)
        keeper.renew()
        overflow = math.isfinite(float(loss)) and not math.isfinite(norm)
        self._move(weight, skipped=skipped, overflow=overflow)
        if len(self.optimizers) == 1:
            self._clear_gradients()
        replay.losses.append(float(loss))
        replay.norms.append(norm)
        replay.skipped.append(skipped)
        same = same and _equal(norm, step.norm)
        if not same and replay.first_difference is None:
            replay.first_difference = step.number

    def _clip_as_the_loop(self, which: int, divisor: float | Tensor, max_norm: float) -> float:
        """Clip gradients as the loop did by itself; return what is left to divide them by."""
        own = {id(p) for p in self._params(which)}
        params = [p for p in self.model.parameters() if id(p) in own]
        params += [p for p in self._params(which) if id(p) not in {id(q) for q in params}]
        if isinstance(divisor, Tensor) or divisor != 1:  # it has unscaled them before
            for p in params:
                if p.grad is not None:
                    p.grad.div_(divisor)
        torch.nn.utils.clip_grad_norm_(params, max_norm)
        return 1.0

    def _backward(
        self, step: TapeStep, change: Change, decide: Decide | None
    ) -> tuple[Window, float | Tensor, bool]:
        """Add up a step's gradients; return their window, divisor, and if all losses agree."""
        window, same, divisor = Window(), True, step.divisor
        if not step.micro_steps:
            return self._last_window, divisor, same
        if step.micro_steps[0].fresh is None:
            self._clear_gradients()
        for i, micro in enumerate(step.micro_steps):
            self._clear_before(micro)
            if micro.dropped and self._ranks > 1:
                continue  # all ranks have to make the same exchanges
            last = i + 1 == len(step.micro_steps)
            with _ranks.exchange(self.model, last=last):
                value = self._compute(micro, change)
                if micro.dropped and _is_bad_again(
                    micro, float(value.detach()), decide, step.which
                ):
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
        self._last_window = window
        return window, divisor, same

    def _compute(self, micro: MicroStep, change: Change) -> Tensor:
        restore_random_state(micro.random)
        with autocast(self._device.type, change.precision or micro.precision):
            return micro.compute().reshape(())

    def _set_rates(self, step: TapeStep, change: Change) -> None:
        """Give each group the settings that the step had, changed as is asked for."""
        follows = self._deviates and "schedule" in self.parts  # which is elsewhere than it was then
        groups = self.optimizers[step.which].param_groups
        for group, settings in zip(groups, step.settings, strict=False):
            if not follows:
                group.update(settings)
            if change.optimizer not in {None, step.which}:
                continue
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

    def _clear_before(self, micro: MicroStep) -> None:
        """Clear the gradients that the loop had cleared when a micro-step went backward."""
        for which in micro.fresh or ():
            for p in self._params(which):
                p.grad = None

    def _clear_gradients(self) -> None:
        for which in range(len(self.optimizers)):
            for p in self._params(which):
                p.grad = None

    def _params(self, which: int) -> list[nn.Parameter]:
        return [p for group in self.optimizers[which].param_groups for p in group["params"]]

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep gradients and modes aside, and the optimizer's hooks silent."""
        params = [p for which in range(len(self.optimizers)) for p in self._params(which)]
        grads = [(p, p.grad) for p in params]
        modes = [(module, module.training) for module in self.model.modules()]
        hooks = [
            (o, o._optimizer_step_pre_hooks, o._optimizer_step_post_hooks) for o in self.optimizers
        ]
        # Others in their place: a replay may begin while torch goes through them.
        for optimizer in self.optimizers:
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
            if len(self.optimizers) > 1:
                self._left = [(p, p.grad) for p in params]
            for module, training in modes:
                module.training = training
            for optimizer, pre, post in hooks:
                optimizer._optimizer_step_pre_hooks = pre
                optimizer._optimizer_step_post_hooks = post
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


def _is_bad_again(micro: MicroStep, loss: float, decide: Decide | None, which: int) -> bool:
    """Tell whether a micro-batch that was left out of its step has to be left out again."""
    recorded = math.nan if micro.loss is None else float(micro.loss)
    return _equal(loss, recorded) or (decide is not None and decide(loss, 0.0, which))


def _equal(a: float, b: float) -> bool:
    """Tell whether two numbers are one, NaN being equal to itself."""
    return a == b or (a != a and b != b)
