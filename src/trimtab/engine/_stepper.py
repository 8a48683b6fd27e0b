"""The Stepper: one optimizer step with everything in the right order."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from trimtab.engine import _pitfalls, _ranks
from trimtab.engine._micro_guard import MicroGuard, kept_loss, kept_weight
from trimtab.engine._rerun import Rerun, keep_up
from trimtab.engine._result import StepResult
from trimtab.engine._step_tape import StepTape
from trimtab.engine._update import Update, Updater, record_update
from trimtab.engine._window import Window, check_weight
from trimtab.errors import ConfigError, DivergedError, StateError
from trimtab.guard import (
    ActiveGuard,
    Change,
    Guard,
    GuardLike,
    Outcome,
    Return,
    TapeStep,
    as_guard,
)
from trimtab.optim import Clipper, as_clipper
from trimtab.precision import LossScaler, Precision, autocast, check_precision
from trimtab.signals import Readback, Recorder


@dataclass(frozen=True)
class _Pending:
    """A step whose outcome is on its way to the host."""

    values: Readback
    weight: float | Tensor
    result: StepResult
    tape: TapeStep | None


class Counters:
    """Number of updates that a state has in it; goes back with a snapshot."""

    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, int]:
        """Return the number."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take up what `state_dict` returned."""
        self.steps = state["steps"]


class Stepper:
    """One optimizer step, with everything that keeps it stable, in the right order.

    Scale → backward → divide by the true number of samples → unscale → clip → judge → step or skip
    → schedule → zero. A step with a non-finite loss or gradient touches neither parameters nor
    optimizer state nor schedule. What is known to break training is impossible here, or refused, or
    warned about once with the remedy (`StabilityWarning`).

    With a fused optimizer (`AdamW(..., fused=True)`) clipping and skipping cost one pass over the
    gradients and, on an accelerator, no wait: a step's outcome is read when the next one begins,
    and the schedule moves then.

    Args:
        model: As it is called: wrapped in DDP, sharded, or plain; in float32 or bfloat16.
        optimizer: Any torch optimizer but LBFGS, over this model's parameters.
        clip: Largest joint L2 norm of the gradients, or a `Clipper`; None only measures.
        precision: What the forward pass runs in: `"fp32"`, `"bf16"` or `"fp16"` (with loss
            scaling).
        accumulate: Micro-batches for each step.
        schedule: Learning-rate schedule, moved once for every step that was not skipped. A schedule
            that counts tokens is given each step's weight. `"constant"` says that none is meant.
        scaler: Loss scale for fp16; the default starts at 65536.
        max_skips: Skipped steps in a row before the run is stopped.
        recorder: Measures gradients, updates and module outputs of each step.
        guard: Which steps are left out as outliers, and what is done if they go on: the name of a
            policy, `"observe"`, a policy, a `trimtab.guard.Guard`, or None. Steps that are not
            finite are left out in any case.
        stateful: What else has a state and goes back with a snapshot, by name: an average of the
            weights, for example. Anything with `state_dict` and `load_state_dict`.

    Raises:
        ConfigError: A value is out of range, or the combination can never work.

    Examples:
        >>> model = nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> stepper = Stepper(model, optimizer, accumulate=2)
        >>> for x in torch.ones(2, 8, 4):
        ...     loss = stepper.backward(lambda: model(x).square().mean(), weight=len(x))
        ...     result = stepper.step()
        >>> result.stepped
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float | Clipper | None = 1.0,
        precision: Precision = "fp32",
        accumulate: int = 1,
        schedule: LRScheduler | Literal["constant"] | None = None,
        scaler: LossScaler | None = None,
        max_skips: int = 50,
        recorder: Recorder | None = None,
        guard: GuardLike = "spike",
        stateful: Mapping[str, Any] | None = None,
    ) -> None:
        self.precision = check_precision(precision)
        for name, count in {"accumulate": accumulate, "max_skips": max_skips}.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {count!r}.")
        if scaler is not None and precision != "fp16":
            raise ConfigError(f'A loss scaler is for precision="fp16", got {precision!r}.')
        self.schedule: Final = _pitfalls.check_schedule(schedule, optimizer)
        _pitfalls.refuse_impossible(model, optimizer)
        self.model, self.optimizer, self.accumulate = model, optimizer, accumulate
        self.max_skips = max_skips
        self.recorder: Final = recorder
        self._counters = Counters()
        self.skipped_steps = 0
        """Steps left out so far."""
        self._skips_in_a_row = 0
        self._device = next(p.device for g in optimizer.param_groups for p in g["params"])
        self._at_once = self._device.type == "cpu"  # elsewhere, an outcome is read a step later
        self._updater = Updater(optimizer, as_clipper(clip), at_once=self._at_once)
        if recorder is not None:
            self._updater.on_nonfinite = self._locate_nonfinite
            recorder.last_forward.keeps = self._updater.tells_host
        self._loss: Tensor | None = None
        self.scaler: Final = scaler or (LossScaler() if precision == "fp16" else None)
        if self.scaler is not None:
            self.scaler.to(self._device)
        self._ranks = _ranks.num_ranks(model)
        self._reference: float = 0.0  # several ranks must agree on one for the whole run
        self._window = Window()
        self._pending: _Pending | None = None
        self._in_autocast = False
        self._clip_watch = _pitfalls.ClipWatch()
        self._first_gradients_seen = False
        self._ended = time.perf_counter()
        self._updating = False
        self.guard: Final = self._make_guard(as_guard(guard), stateful or {})
        self._tape = StepTape(self.guard)
        self._micro_guard: MicroGuard | None = None
        self._dropped: list[bool | Tensor] = []
        if self.guard is not None and self.guard.acts and accumulate > 1:
            shared = self._ranks > 1 and not isinstance(model, DistributedDataParallel)
            params = [p for group in optimizer.param_groups for p in group["params"]]
            policy = self.guard.policy.fresh(times=accumulate)
            self._micro_guard = MicroGuard(model, params, policy, shared=shared)
        fresh = self.schedule is None or self.schedule.last_epoch <= 0
        _pitfalls.warn_about(
            model,
            optimizer,
            starts_here=fresh and schedule != "constant",
            num_ranks=self._ranks,
        )

    def _make_guard(self, config: Guard | None, stateful: Mapping[str, Any]) -> ActiveGuard | None:
        if config is None:
            return None
        parts = {**self._parts(), "counters": self._counters, **stateful}
        ranks = self._ranks
        guard = ActiveGuard(
            config,
            self.model,
            [self.optimizer],
            parts=parts,
            replayer=Rerun(self.model, self.optimizer, clipper=self.clipper, parts=parts,
                           recorder=self.recorder),
            folder=lambda: None,
            agree=lambda yes: bool(_ranks.largest(float(yes), self._device, ranks)),
            slowest=lambda value: _ranks.largest(value, self._device, ranks),
            apply=self._keep_up,
        )  # fmt: skip
        self._updater.judge, self._updater.obeys = self._judge_step, guard.acts
        return guard

    def _judge_step(self, loss: Tensor | None, norm: Tensor) -> Tensor:
        """Ask the guard; all ranks with the same numbers."""
        assert self.guard is not None
        return self.guard.judge(loss, norm if self._ranks == 1 else _ranks.worst(norm))

    def _keep_up(self, change: Change) -> None:
        """Go on with what a replay showed to be sound."""
        if change.precision is not None:
            self.precision = change.precision
        keep_up(self.model, change)

    @property
    def steps(self) -> int:
        """Optimizer updates that the state has in it, as of the last outcome read."""
        return self._counters.steps

    @property
    def clipper(self) -> Clipper | None:
        """What clips the gradients; None if they are only measured."""
        return self._updater.clipper

    @property
    def micro_steps(self) -> int:
        """Micro-batches in the open accumulation window."""
        return self._window.count

    @property
    def due(self) -> bool:
        """Whether the next `step()` acts."""
        return self._window.count >= self.accumulate

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context to compute a loss in when it is not given as a closure."""
        self._in_autocast = True
        return autocast(self._device.type, self.precision)

    def backward(self, loss: Tensor | Callable[[], Tensor], weight: float | Tensor = 1.0) -> Tensor:
        """Add one micro-batch's gradient.

        Args:
            loss: The mean loss over the micro-batch, or a function that computes it. The function
                runs in the right precision, and under DDP without a needless exchange of gradients.
            weight: Samples or tokens that the loss is the mean of; 0 leaves the micro-batch out.

        Returns:
            The loss, detached, 0-d.

        Raises:
            ConfigError: The loss is not a single number, or the weight is negative or not finite.
            StateError: The window is full, the loss has no gradient, or it was computed outside
                `autocast()` although the precision is not fp32.
        """
        weight = check_weight(weight)
        if self.due:
            raise StateError(
                f"The window of {self.accumulate} micro-batches is full. Call step() after every "
                "backward(); it acts when a step is due."
            )
        if self._window.count == 0:
            self._clear_gradients()  # that others left behind
        last = self._window.count + 1 == self.accumulate
        micro = self._tape.note(loss, weight, self.precision)
        judged = self._micro_guard
        if last and isinstance(self.model, DistributedDataParallel):
            judged = None  # what comes is the sum over the window and over all ranks
        with nullcontext() if judged is None else judged.aside():
            with _ranks.exchange(self.model, last=last):
                value = self._evaluate(loss)
                if weight == 0 and self._ranks == 1 and isinstance(weight, float):
                    self._window.add(0.0, torch.zeros_like(value))
                    return value.detach()
                factor = self._factor(weight)
                wide = value.to(torch.promote_types(value.dtype, torch.float32))
                (wide * factor).backward()  # type: ignore[no-untyped-call] # torch's
            value = value.detach()
            bad = False if judged is None else self._judge(judged, value, factor)
        self._tape.add(micro, factor=factor, loss=value, dropped=bad)
        self._window.add(kept_weight(weight, bad), kept_loss(value, bad))
        return value

    def _judge(self, judged: MicroGuard, value: Tensor, factor: float | Tensor) -> bool | Tensor:
        """Return whether a micro-batch is left out of the window."""
        scaled = self.scaler is not None
        bad = judged.after(value, factor, scaled=scaled, at_once=self._at_once)
        self._dropped.append(bad)
        return bad

    def _factor(self, weight: float | Tensor) -> float | Tensor:
        """Return what the gradient of a micro-batch is multiplied by."""
        self._agree_on_reference(weight)
        factor = self._window.factor(weight)
        return factor if self.scaler is None else factor * self.scaler.scale

    def _evaluate(self, loss: Tensor | Callable[[], Tensor]) -> Tensor:
        """Return the loss with its graph, computed in the right precision.

        Raises:
            ConfigError: It is not a single number.
            StateError: It has no gradient, or was computed outside mixed precision.
        """
        if not isinstance(loss, Tensor):
            with autocast(self._device.type, self.precision):
                loss = loss()
        elif self.precision != "fp32" and not self._in_autocast:
            raise StateError(
                f"The loss was computed outside mixed precision, but precision={self.precision!r}. "
                "Compute it under stepper.autocast(), or pass a function that returns it."
            )
        self._in_autocast = False
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            seen = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"The loss must be one number, got {seen}. Take its mean().")
        if not loss.requires_grad:
            raise StateError(
                "The loss has no gradient: it was computed under no_grad(), detached, or reaches "
                "no trainable parameter."
            )
        return loss.reshape(())

    def _clear_gradients(self) -> None:
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def _agree_on_reference(self, weight: float | Tensor) -> None:
        if self._ranks == 1:
            return
        if self._reference == 0:
            self._reference = _ranks.largest_over_ranks(weight, self._device) or 1.0
        self._window.reference = self._reference

    def step(self) -> StepResult:
        """Make an optimizer step if the window is full; otherwise do nothing.

        Returns:
            What happened.

        Raises:
            StateError: There was no `backward()` since the last step.
            DivergedError: More than `max_skips` steps in a row were skipped.
        """
        if self._window.count == 0:
            raise StateError("step() needs a backward() before it; none came since the last step.")
        return self._act() if self.due else self._idle()

    def flush(self) -> StepResult:
        """Make the step of a window that is not full, at the end of an epoch; nothing if empty.

        Its gradient is divided by the samples it really holds.

        Returns:
            What happened.

        Raises:
            DivergedError: More than `max_skips` steps in a row were skipped.
        """
        if self._window.count == 0:
            return self._idle()
        if self._ranks > 1 and not self.due and isinstance(self.model, DistributedDataParallel):
            _ranks.average_gradients_(list(self.model.parameters()))
        return self._act()

    def _idle(self) -> StepResult:
        return StepResult(lr=self._lr(), loss_scale=self._scale())

    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _scale(self) -> Tensor | None:
        return None if self.scaler is None else self.scaler.scale

    def _act(self) -> StepResult:
        """Unscale, clip, judge, step or skip, schedule, zero.

        Raises:
            DivergedError: More than `max_skips` steps in a row were skipped.
        """
        if self._sync():  # the gradients are those of a state that is gone
            return self._abandon()
        self._updating = True
        divisor, weight, loss = self._close_window()
        tape = self._tape.close(self.optimizer, divisor, self._scale())
        if self.guard is not None:
            self.guard.before_update()
            self._updater.norm_limit = self.guard.norm_limit
        lr = self._lr()
        scale = self._scale()
        if scale is not None:
            divisor = divisor * scale
        if self.recorder is not None:
            self.recorder.before_update()
        update = self._update(divisor, loss)
        if self.recorder is not None:
            record_update(
                self.recorder,
                self._updater,
                update,
                divisor=divisor,
                loss=loss,
                learning_rate=lr,
                loss_scale=1.0 if scale is None else scale,
            )
        if not self._first_gradients_seen:
            self._first_gradients_seen = True
            if self.scaler is None or not update.found_inf:  # fp16 finds its scale by overflowing
                _pitfalls.warn_about_first_gradients(self.optimizer, update.norms.each, loss)
        if self.scaler is not None:
            overflow = loss.isfinite() & ~update.norms.total.isfinite()  # else it is the data
            self.scaler.update(overflow.float())
        for p in update.params:  # zero_grad() takes six times as long
            p.grad = None
        dropped, self._dropped = sum(self._dropped, torch.zeros(())), []
        values = Readback(
            [
                update.found_inf,
                update.norms.total,
                update.coefficient,
                loss,
                update.flagged,
                dropped,
            ]
        )
        result = StepResult(lr=lr, values=values, grad_norms=update.norms.each, loss_scale=scale)
        self._pending = _Pending(values, weight, result, tape)
        self._end_step(result)
        self._updating = False
        return result

    def _update(self, divisor: float | Tensor, loss: Tensor) -> Update:
        """Make the update, and let the guard clean up after it."""
        self._loss = loss
        guard = self.guard
        try:
            update = self._updater.apply(divisor=divisor, loss=loss)
        except BaseException:
            if guard is not None:
                guard.rates.put_back(stepped=False)
            raise
        if guard is not None:
            guard.after_update(update.found_inf)
        return update

    def _end_step(self, result: StepResult) -> None:
        """Take the outcome in where that waits for nothing, and a snapshot if one is due.

        Raises:
            DivergedError: As for `step`.
        """
        if self._at_once:
            try:
                self.sync()
            except DivergedError as error:
                error.result, self._updating = result, False
                raise
        if self.guard is not None:
            now = time.perf_counter()
            self.guard.end_step(now - self._ended, None if self._at_once else self.sync)
            self._ended = now

    def abandon(self) -> bool:
        """Drop the open window, as if its backward passes had never been: they were broken off.

        Returns:
            Whether the state is whole: that of the last step that ended. It is not if an update was
            broken off, or if forward passes have changed buffers and no guard can put them back.
        """
        self._drop_window()
        if self.guard is not None:
            self.guard.keeper.put_back(skip=True)
            self.guard.keeper.renew()
        keeps = self.guard is not None or next(self.model.buffers(), None) is None
        return keeps and not self._updating

    def _drop_window(self) -> None:
        self._window, self._dropped = Window(), []
        self._tape.drop()
        self._clear_gradients()

    def _abandon(self) -> StepResult:
        """Drop the open window: its gradients are those of a state that has been put back."""
        self._drop_window()
        zero = torch.zeros(())
        values = Readback([zero + 1, zero + math.nan, zero + 1, zero + math.nan, zero, zero])
        return StepResult(lr=self._lr(), values=values, loss_scale=self._scale())

    def _locate_nonfinite(self) -> None:
        """Say where the value that is not finite came from; the host knows of it anyway."""
        assert self.recorder is not None
        assert self._loss is not None
        loss = float(self._loss)
        self.recorder.locate_nonfinite(loss=loss, scaled=self.scaler is not None)

    def _close_window(self) -> tuple[float | Tensor, float | Tensor, Tensor]:
        """Return divisor, weight and mean loss over the window, on all ranks, and open the next."""
        window, self._window = self._window, Window()
        if self._ranks > 1:
            sums = _ranks.sum_over_ranks([window.weight, window.loss], self._device)
            window.weight, window.loss = sums[0], sums[1]
            return sums[0] / (self._ranks * self._reference), sums[0], window.mean_loss()
        return window.divisor(), window.weight, window.mean_loss()

    def sync(self) -> None:
        """Take in the last step's outcome, waiting for the device if it is not there yet.

        Counters and schedule are up to date afterwards. Called by itself at the next step.

        Raises:
            DivergedError: More than `max_skips` steps in a row were skipped, or the guard has put
                the run back too often.
        """
        self._sync()

    def _sync(self) -> bool:
        """Do as `sync` does; return whether the guard has put the run back.

        Raises:
            DivergedError: As for `sync`.
        """
        if self._pending is None:
            return False
        pending, self._pending = self._pending, None
        found_inf, norm, coefficient, loss, flagged, dropped = pending.values.numbers()
        if not found_inf:
            self._counters.steps += 1
            self._skips_in_a_row = 0
            self._move_schedule(pending.weight)
            self._clip_watch.see(coefficient, norm)
        else:
            self.skipped_steps += 1
            self._skips_in_a_row += 1
        returned = self._tell_guard(
            pending, loss, norm, skipped=bool(found_inf), flagged=bool(flagged)
        )
        if dropped and not found_inf and self.guard is not None:
            self.guard.note_dropped(round(dropped), self.accumulate, pending.tape)
        if returned:
            self._skips_in_a_row = 0
        if self.guard is not None:
            self.skipped_steps -= self.guard.take_num_made_again()
        pending.result.made_again = returned == "made again"
        if self._skips_in_a_row > self.max_skips:
            raise DivergedError(
                f"{self._skips_in_a_row} steps in a row had a non-finite loss or gradient and were "
                "skipped. Parameters, optimizer and schedule are as the last good step left them. "
                "Look at the data and the loss first; then lower the learning rate or warm up "
                "longer."
            )
        return returned != ""

    def _tell_guard(
        self, pending: "_Pending", loss: float, norm: float, *, skipped: bool, flagged: bool
    ) -> Return:
        """Let the guard take in a step; return whether it has changed the state."""
        if self.guard is None:
            return ""
        tape = pending.tape
        if tape is not None:
            tape.loss, tape.norm, tape.skipped, tape.flagged = loss, norm, skipped, flagged
        overflow = skipped and pending.result.loss_scale > 1 and math.isfinite(loss)
        outcome = Outcome(
            loss=loss,
            norm=norm,
            skipped=skipped,
            flagged=flagged,
            overflow=overflow and not math.isfinite(norm),
            values={"learning_rate": pending.result.lr},
            tape=tape,
        )
        returned = self.guard.note(outcome)
        if returned:
            self._clear_gradients()
        return returned

    def _move_schedule(self, weight: float | Tensor) -> None:
        if self.schedule is None:
            return
        if getattr(self.schedule, "counts_tokens", False):
            self.schedule.step_tokens(round(float(weight)))  # type: ignore[attr-defined]
        else:
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Return everything a step depends on but the model's own state.

        Optimizer, schedule, loss scale, clipper, counters and the open window with its gradients:
        together with `model.state_dict()` a run goes on bit for bit.
        """
        self.sync()
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "skips_in_a_row": self._skips_in_a_row,
            "reference": self._reference,
        }
        if self.guard is not None:
            state["guard"] = self.guard.state_dict()
        if self._micro_guard is not None:
            state["micro_guard"] = self._micro_guard.state_dict()
        for name, part in self._parts().items():
            state[name] = part.state_dict()
        if self._window.count:
            window = {k: getattr(self._window, k) for k in ("count", "weight", "reference", "loss")}
            state["window"] = window | {"grads": {str(i): p.grad for i, p in self._with_grad()}}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Raises:
            ConfigError: The state is of a stepper with other parts, for example without a schedule.
        """
        optional = {"schedule", "scaler", "clipper"}
        saved, here = optional & state.keys(), set(self._parts())
        if saved != here:
            raise ConfigError(
                f"The saved stepper has {sorted(saved) or 'no optional part'}, this one has "
                f"{sorted(here) or 'none'}. Build it with the settings it was saved with."
            )
        self.optimizer.load_state_dict(state["optimizer"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._counters.steps, self.skipped_steps = state["steps"], state["skipped_steps"]
        self._skips_in_a_row, self._reference = state["skips_in_a_row"], state["reference"]
        self._pending, self._window = None, Window()
        self._tape.drop()
        self._first_gradients_seen = self.steps > 0
        self._clear_gradients()
        if self.guard is not None and "guard" in state:
            self.guard.load_state_dict(state["guard"])
        if self._micro_guard is not None and "micro_guard" in state:
            self._micro_guard.load_state_dict(state["micro_guard"])
        self._dropped = []
        if "window" in state:
            window = dict(state["window"])
            params = [p for g in self.optimizer.param_groups for p in g["params"]]
            for index, grad in window.pop("grads").items():
                params[int(index)].grad = grad.clone()
            self._window = Window(**window)
            self._tape.drop(unseen=True)

    def _parts(self) -> dict[str, Any]:
        """Return the optional parts that have a state."""
        parts = {"schedule": self.schedule, "scaler": self.scaler, "clipper": self.clipper}
        return {name: part for name, part in parts.items() if part is not None}

    def _with_grad(self) -> list[tuple[int, nn.Parameter]]:
        params = [p for g in self.optimizer.param_groups for p in g["params"]]
        return [(i, p) for i, p in enumerate(params) if p.grad is not None]
