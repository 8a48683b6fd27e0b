"""The Stepper: one optimizer step with everything in the right order."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from trimtab.engine import _pitfalls, _ranks
from trimtab.engine._open_window import OpenWindow
from trimtab.engine._rerun import keep_up
from trimtab.engine._result import StepResult
from trimtab.engine._settled import Counters, Pending, Settled, read_back
from trimtab.engine._step_guard import guarded_update, make_micro_guard, make_step_guard
from trimtab.engine._step_tape import StepTape
from trimtab.engine._update import Updater, record_update
from trimtab.errors import ConfigError, DivergedError, StateError
from trimtab.guard import Change, GuardLike, as_guard
from trimtab.optim import Clipper, as_clipper
from trimtab.precision import LossScaler, Precision, check_precision
from trimtab.signals import Recorder


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
        check_precision(precision)
        for name, count in {"accumulate": accumulate, "max_skips": max_skips}.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {count!r}.")
        if scaler is not None and precision != "fp16":
            raise ConfigError(f'A loss scaler is for precision="fp16", got {precision!r}.')
        self.schedule: Final = _pitfalls.check_schedule(schedule, optimizer)
        _pitfalls.refuse_impossible(model, optimizer)
        self.model, self.optimizer, self.accumulate = model, optimizer, accumulate
        self.recorder: Final = recorder
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
        self._first_gradients_seen = False
        self._ended = time.perf_counter()
        self._updating = False
        counters = Counters()
        self.guard: Final = make_step_guard(
            as_guard(guard),
            model,
            self._updater,
            parts={**self._parts(), "counters": counters, **(stateful or {})},
            recorder=recorder,
            apply=self._keep_up,
        )
        self._open = OpenWindow(
            model,
            optimizer,
            accumulate=accumulate,
            precision=precision,
            scaler=self.scaler,
            tape=StepTape(self.guard),
            micro_guard=make_micro_guard(self.guard, model, optimizer, accumulate),
        )
        self._settled = Settled(
            counters,
            schedule=self.schedule,
            guard=self.guard,
            accumulate=accumulate,
            max_skips=max_skips,
            clear_gradients=self._open.clear_gradients,
        )
        fresh = self.schedule is None or self.schedule.last_epoch <= 0
        _pitfalls.warn_about(
            model,
            optimizer,
            starts_here=fresh and schedule != "constant",
            num_ranks=self._ranks,
        )

    def _keep_up(self, change: Change) -> None:
        """Go on with what a replay showed to be sound."""
        if change.precision is not None:
            self._open.precision = change.precision
        keep_up(self.model, change)

    @property
    def precision(self) -> Precision:
        """What the forward pass runs in."""
        return self._open.precision

    @property
    def max_skips(self) -> int:
        """Skipped steps in a row before the run is stopped."""
        return self._settled.max_skips

    @property
    def steps(self) -> int:
        """Optimizer updates that the state has in it, as of the last outcome read."""
        return self._settled.counters.steps

    @property
    def skipped_steps(self) -> int:
        """Steps left out so far."""
        return self._settled.skipped_steps

    @property
    def clipper(self) -> Clipper | None:
        """What clips the gradients; None if they are only measured."""
        return self._updater.clipper

    @property
    def micro_steps(self) -> int:
        """Micro-batches in the open accumulation window."""
        return self._open.count

    @property
    def due(self) -> bool:
        """Whether the next `step()` acts."""
        return self._open.due

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context to compute a loss in when it is not given as a closure."""
        return self._open.autocast()

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
        return self._open.backward(loss, weight, at_once=self._at_once)

    def step(self) -> StepResult:
        """Make an optimizer step if the window is full; otherwise do nothing.

        Returns:
            What happened.

        Raises:
            StateError: There was no `backward()` since the last step.
            DivergedError: More than `max_skips` steps in a row were skipped.
        """
        if self._open.count == 0:
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
        if self._open.count == 0:
            return self._idle()
        self._open.exchange_if_short()
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
        if self._settled.take_in():  # the gradients are those of a state that is gone
            return self._abandon()
        self._updating = True
        divisor, weight, loss = self._open.close()
        tape = self._open.tape.close(self.optimizer, divisor, self._scale())
        if self.guard is not None:
            self.guard.before_update()
            self._updater.norm_limit = self.guard.norm_limit
        lr = self._lr()
        scale = self._scale()
        if scale is not None:
            divisor = divisor * scale
        if self.recorder is not None:
            self.recorder.before_update()
        self._loss = loss
        update = guarded_update(self._updater, self.guard, divisor=divisor, loss=loss)
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
        dropped = self._open.take_num_dropped()
        values = read_back(update, loss, dropped)
        result = StepResult(lr=lr, values=values, grad_norms=update.norms.each, loss_scale=scale)
        self._settled.wait_for(Pending(values, weight, result, tape))
        self._end_step(result)
        self._updating = False
        return result

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
        self._open.drop()
        if self.guard is not None:
            self.guard.keeper.put_back(skip=True)
            self.guard.keeper.renew()
        keeps = self.guard is not None or next(self.model.buffers(), None) is None
        return keeps and not self._updating

    def _abandon(self) -> StepResult:
        """Drop the open window: its gradients are those of a state that has been put back."""
        self._open.drop()
        return StepResult(lr=self._lr(), values=read_back(None), loss_scale=self._scale())

    def _locate_nonfinite(self) -> None:
        """Say where the value that is not finite came from; the host knows of it anyway."""
        assert self.recorder is not None
        assert self._loss is not None
        loss = float(self._loss)
        self.recorder.locate_nonfinite(loss=loss, scaled=self.scaler is not None)

    def sync(self) -> None:
        """Take in the last step's outcome, waiting for the device if it is not there yet.

        Counters and schedule are up to date afterwards. Called by itself at the next step.

        Raises:
            DivergedError: More than `max_skips` steps in a row were skipped, or the guard has put
                the run back too often.
        """
        self._settled.take_in()

    def state_dict(self) -> dict[str, Any]:
        """Return everything a step depends on but the model's own state.

        Optimizer, schedule, loss scale, clipper, counters and the open window with its gradients:
        together with `model.state_dict()` a run goes on bit for bit.
        """
        self.sync()
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            **self._settled.state_dict(),
            "reference": self._open.reference,
        }
        if self.guard is not None:
            state["guard"] = self.guard.state_dict()
        if self._open.micro_guard is not None:
            state["micro_guard"] = self._open.micro_guard.state_dict()
        for name, part in self._parts().items():
            state[name] = part.state_dict()
        window = self._open.state_dict()
        if window is not None:
            state["window"] = window
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
        self._settled.load_state_dict(state)
        self._open.reference = state["reference"]
        self._open.load_state_dict(state.get("window"))
        self._first_gradients_seen = self.steps > 0
        if self.guard is not None and "guard" in state:
            self.guard.load_state_dict(state["guard"])
        if self._open.micro_guard is not None and "micro_guard" in state:
            self._open.micro_guard.load_state_dict(state["micro_guard"])

    def _parts(self) -> dict[str, Any]:
        """Return the optional parts that have a state."""
        parts = {"schedule": self.schedule, "scaler": self.scaler, "clipper": self.clipper}
        return {name: part for name, part in parts.items() if part is not None}
