"""Hooks on an optimizer that clip, protect and measure each of its steps."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.engine import _ranks
from trimtab.engine._loop_tape import LoopTape
from trimtab.engine._update import Prepared, Updater, record_update
from trimtab.errors import StateError
from trimtab.guard import ActiveGuard
from trimtab.optim import Clipper
from trimtab.signals import Recorder

_FOLDED: Final = ("grad_scale", "found_inf")
_UNSET: Final = object()

_TAKES_SCALE: Final = "_step_supports_amp_scaling"
"""Tells torch's GradScaler to hand scale and overflow over, and to call `step()` in any case."""


class OptimizerHooks:
    """What happens before and after `optimizer.step()`.

    Args:
        optimizer: Any of torch's, or one that derives from it.
        recorder: Measures the step.
        clipper: Clips it; None leaves gradients alone.
        which: The optimizer's number in the recorder.
        guard: Says which steps are left out; None leaves out none.
        take_overflow: Whether the optimizer may be called in steps that a GradScaler found to
            overflow, so that they are recorded; they then do nothing.
        take_loss: Returns the loss of the step, NaN if it is not known, and forgets it.
        knows_loss: Returns whether a loss of the step has been noted.
        note_loss: Is given what a closure returns.
        tape: Takes what a replay of the step needs.
        ranks: Processes that train the model together.
        joint: Whether all of them judge the same numbers; otherwise only the norm, which they have
            in common, is judged.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        recorder: Recorder,
        clipper: Clipper | None,
        *,
        which: int,
        guard: ActiveGuard | None,
        take_overflow: bool,
        take_loss: Callable[[], Tensor | float],
        knows_loss: Callable[[], bool],
        note_loss: Callable[[Tensor], Tensor],
        tape: LoopTape,
        ranks: int = 1,
        joint: bool = True,
    ) -> None:
        self.optimizer, self.recorder, self.which = optimizer, recorder, which
        self.measures_only: Final = isinstance(optimizer, torch.optim.LBFGS)
        self.clipper: Final = None if self.measures_only else clipper
        self._take_loss, self._note_loss = take_loss, note_loss
        self._knows_loss, self._tape = knows_loss, tape
        self._ranks, self._joint = ranks, joint
        self.guard: Final = None if self.measures_only else guard
        self._some_param = next(p for g in optimizer.param_groups for p in g["params"])
        self._updater = Updater(
            optimizer,
            self.clipper,
            at_once=self._some_param.device.type == "cpu",
            protect=self.guard is not None and self.guard.acts,
        )
        if self.guard is not None:
            self._updater.judge, self._updater.obeys = self._judge, self.guard.acts
        self._updater.on_nonfinite = self._locate_nonfinite
        recorder.last_forward.keeps |= self._updater.tells_host
        self._prepared: Prepared | None = None
        self._stepping = False
        self._num_nested = 0
        self._ended = time.perf_counter()
        self._divisor: Tensor | float = 1.0
        self._loss_scale: Tensor | float = 1.0
        self._scaled = False
        self._stale = False  # whether its gradients are those of a state that is gone
        self._loss: Tensor | float | None = None
        self._replaced: dict[str, object] = {}
        self._hidden: list[tuple[nn.Parameter, Tensor]] = []
        self._num_params = self._count()
        self._adds_flag = take_overflow and not getattr(optimizer, _TAKES_SCALE, False)
        if self._adds_flag:
            setattr(optimizer, _TAKES_SCALE, True)
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def _judge(self, _loss: Tensor | None, norm: Tensor) -> Tensor:
        """Ask the guard, with the loss that the loop has noted."""
        assert self.guard is not None
        if self._stale:
            return torch.zeros((), device=norm.device)
        loss = self._loss
        known = None if loss is None else torch.as_tensor(loss, device=norm.device)
        if self._ranks > 1 and not self._joint:
            known = None
        elif self._ranks > 1:
            mean, norm = _ranks.mean_loss(known, norm.device), _ranks.worst(norm)
            self._loss = known = None if known is None else mean  # all ranks' loops are alike
        return self.guard.judge(known, norm, self.which)

    def _count(self) -> int:
        return sum(len(group["params"]) for group in self.optimizer.param_groups)

    def _before(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Prepare the step, or see to it that a closure does when gradients are there."""
        if self._stepping and _num_steps_under_way(optimizer) > 1:  # of a subclass and its base
            self._num_nested += 1
            return None
        self._restore()  # a step that raised left everything as it was prepared
        self._prepared, self._num_nested, self._stepping = None, 0, True
        self._loss = None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._prepare()
            return None

        def evaluate(*closure_args: Any, **closure_kwargs: Any) -> Any:
            first = self._prepared is None
            if not first and not self.measures_only:
                self._restore()
                self._loss = None  # of the gradients that go
            loss = closure(*closure_args, **closure_kwargs)
            if first or not self.measures_only:
                if isinstance(loss, Tensor):
                    self._note_loss(loss)
                self._prepare()
            return loss

        if len(args) > 1:
            return (args[0], evaluate, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluate}

    @torch.no_grad()
    def _prepare(self) -> None:
        """Measure and clip; set what the optimizer shall find."""
        if self._count() != self._num_params:
            self._num_params = self._count()
            params = [p for group in self.optimizer.param_groups for p in group["params"]]
            self.recorder.add_params(params, self.which)
        if self._some_param.device != self.recorder.device:
            self._follow()
        scale = getattr(self.optimizer, "grad_scale", None)  # a GradScaler's
        overflow = getattr(self.optimizer, "found_inf", None)
        self._divisor = 1.0 if scale is None else scale
        # The user has unscaled already if there is no scale, but a decision.
        self._loss_scale = float("nan") if scale is None and overflow is not None else self._divisor
        self._scaled = scale is not None or overflow is not None
        self.recorder.before_update(self.which)
        if self.guard is not None:
            if self._loss is None and self._knows_loss():
                self._loss = self._take_loss()
            self._stale = self._tape.has_stale_gradients(self.which)
            unscaled = scale is None and overflow is not None  # by the loop: nobody knows by what
            divisor = math.nan if unscaled else self._divisor
            self._tape.close(self.optimizer, divisor, self.which)
            self.guard.before_update(self.which)
            self._updater.norm_limit = self.guard.norm_limit_of(self.which)
            if self._stale:
                overflow = torch.ones((), device=self._some_param.device)
        prepared = self._updater.prepare(divisor=self._divisor, overflow=overflow)
        self._prepared = prepared
        for name in _FOLDED:
            if name in prepared.fold or hasattr(self.optimizer, name):
                self._set(name, prepared.fold.get(name))
        if prepared.skip:
            self._hide(prepared.update.params)

    def _locate_nonfinite(self) -> None:
        """Say where the value that is not finite came from; the host knows of it anyway."""
        known = self._loss is not None or self._knows_loss()
        if self._loss is None:
            self._loss = self._take_loss()
        loss = float(self._loss) if known else None
        self.recorder.locate_nonfinite(loss=loss, scaled=self._scaled)

    def _follow(self) -> None:
        """Measure on the device that the model has been moved to since it was attached."""
        device = self._some_param.device
        self._updater.at_once = device.type == "cpu"
        if self.which == 0:
            self.recorder.move_to(device)

    def _set(self, name: str, value: Tensor | None) -> None:
        self._replaced[name] = getattr(self.optimizer, name, _UNSET)
        setattr(self.optimizer, name, value)

    def _hide(self, params: list[nn.Parameter]) -> None:
        """Take the gradients away for the time of the step: no optimizer moves without them."""
        for p in params:
            if p.grad is not None:
                self._hidden.append((p, p.grad))
                p.grad = None

    def _restore(self) -> None:
        """Put back what was set or hidden for one step."""
        if self.guard is not None:
            self.guard.rates.put_back(stepped=False)
        for name, value in self._replaced.items():
            if value is _UNSET:
                self.optimizer.__dict__.pop(name, None)
            else:
                setattr(self.optimizer, name, value)
        self._replaced.clear()
        for p, grad in self._hidden:
            if p.grad is None:  # else the step raised, and a new gradient has come since
                p.grad = grad
        self._hidden.clear()

    def _after(
        self, optimizer: torch.optim.Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]
    ) -> None:
        """Measure what the step did, and leave everything as it was found."""
        if self._num_nested:
            self._num_nested -= 1
            return
        self._stepping = False
        guard = self.guard
        if self._prepared is None:  # the closure was never called
            self._restore()
            return
        update, self._prepared = self._prepared.update, None
        if guard is not None:
            guard.after_update(update.found_inf)
        self._restore()
        loss, self._loss = self._loss, None
        rest = self._take_loss()
        record_update(
            self.recorder,
            self._updater,
            update,
            divisor=self._divisor,
            loss=rest if loss is None else loss,
            learning_rate=optimizer.param_groups[0].get("lr", math.nan),
            loss_scale=self._loss_scale,
            which=self.which,
        )
        if guard is not None:
            guard.end_step(time.perf_counter() - self._ended, whole=self._tape.is_whole)
            self._ended = time.perf_counter()
        if self._adds_flag and _is_accelerated(optimizer):
            self._remove_flag()

    def _remove_flag(self) -> None:
        if self._adds_flag:
            self._adds_flag = False
            self.optimizer.__dict__.pop(_TAKES_SCALE, None)

    def remove(self) -> None:
        """Take the hooks off."""
        self._restore()
        self._remove_flag()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def refuse_attached(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that has these hooks already.

    Raises:
        StateError: It has.
    """
    for hook in optimizer._optimizer_step_pre_hooks.values():
        if isinstance(getattr(hook, "__self__", None), OptimizerHooks):
            raise StateError(
                "This optimizer is attached already, and a second time each step would be clipped "
                "and counted twice. Call detach() on what the first attach() returned."
            )


def _num_steps_under_way(optimizer: torch.optim.Optimizer) -> int:
    """Return how many calls of the optimizer's `step()` are on the stack.

    Only asked when a step began and did not end: it then goes on, or an exception ended it.
    """
    count = 0
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.optim.optimizer":
            mine = frame.f_locals.get("self") is optimizer
            count += frame.f_code.co_name == "wrapper" and mine
        frame = frame.f_back  # type: ignore[assignment] # None at the bottom
    return count


def _is_accelerated(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether Accelerate counts the calls of `step()` to see which steps overflowed."""
    step = optimizer.__dict__.get("step")
    return str(getattr(step, "__module__", "")).startswith("accelerate.")
