"""Trim: a training loop that is clipped, guarded and watched from inside `optimizer.step()`."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from trimtab.engine._loop_guard import clippers_for, make_loop_guard
from trimtab.engine._loop_tape import LoopTape
from trimtab.engine._noted_losses import LossTap, NotedLosses
from trimtab.engine._optimizer_hooks import OptimizerHooks, refuse_attached
from trimtab.engine._pitfalls import ClipWatch, refuse_foreign
from trimtab.engine._ranks import num_ranks
from trimtab.engine._rerun import keep_up
from trimtab.engine._run_info import describe_run, open_run
from trimtab.errors import ConfigError, DivergedError, StabilityWarning, StateError
from trimtab.findings import Finding, Rule, Severity, merge
from trimtab.guard import ActiveGuard, Change, Guard, Incident, Outcome, Return
from trimtab.optim import Clipper
from trimtab.rules import Judge, describe_setup, note_finding
from trimtab.signals import (
    NonfiniteSource,
    Recorder,
    Run,
    ScalarLoggers,
    StepRecord,
    Uncopied,
    Watch,
    load_run,
)

HISTORY: Final = 200
"""Step records that are kept in memory."""


class Trim(Uncopied):
    """A training loop that is clipped, guarded and watched; made by `attach`.

    Attributes:
        steps: Optimizer steps so far, as of the last one that was read.
        skipped_steps: Those left out: a gradient was not finite, or the guard took it for an
            outlier.
        guard: What says which steps are left out, and brings the run back; None without one.
        history: Records of the last 200 steps.
        folder: Where the measurements are; None if only in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        clipper: Clipper | None,
        guard: Guard | None,
        joint: bool,
        stateful: Mapping[str, Any],
        watch: Watch,
        out: Path | str | None,
        loggers: Sequence[Callable[[int, Mapping[str, float]], None]],
        config: Mapping[str, Any] | None,
        max_skips: int,
        rules: Sequence[Rule],
        tells: Callable[[str], bool],
        take_overflow: bool,
    ) -> None:
        self._tells = tells
        if isinstance(max_skips, bool) or not isinstance(max_skips, int) or max_skips < 1:
            raise ConfigError(f"max_skips must be a whole number of at least 1, got {max_skips!r}.")
        for optimizer in optimizers:
            refuse_foreign(model, optimizer)
            refuse_attached(optimizer)
        self.max_skips: Final = max_skips
        self._clippers: Final = clippers_for(clipper, len(optimizers))
        self.steps, self.skipped_steps, self._skips_in_a_row = 0, 0, 0
        self.history: deque[StepRecord] = deque(maxlen=HISTORY)
        self._clip_watch = ClipWatch()
        self._loggers = ScalarLoggers(loggers)
        params = [[p for g in o.param_groups for p in g["params"]] for o in optimizers]
        self.recorder: Final = Recorder(model, *params, watch=watch)
        self._losses = NotedLosses(self.recorder)
        self.judge: Final = Judge(
            describe_setup(model, optimizers, num_ranks=num_ranks(model)),
            rules=rules,
            listeners=[self._note_finding],
        )
        self.recorder.sinks.append(self._take)
        self.recorder.on_nonfinite.append(self._note_source)
        self.recorder.last_forward.keeps = False  # until an optimizer needs it
        try:
            info = describe_run(model, optimizers, self.recorder, clipper=clipper, config=config)
            self.folder, self._writer = open_run(out, info)
        except BaseException:
            self.recorder.close()
            raise
        made, self._rerun = make_loop_guard(
            guard,
            model,
            optimizers,
            clippers=self._clippers,
            recorder=self.recorder,
            stateful=stateful,
            run_config=config,
            folder=lambda: None if self.folder is None else self.folder / "incidents",
            apply=partial(self._keep_up, model),
            joint=joint,
        )
        self.guard: Final = made
        scalers = [v for v in stateful.values() if isinstance(v, torch.amp.GradScaler)]
        self._tape = LoopTape(self.guard, optimizers, scalers[0] if scalers else None)
        self._hooks = [
            OptimizerHooks(
                o,
                self.recorder,
                each,
                which=which,
                guard=self.guard,
                take_overflow=take_overflow,
                take_loss=self._losses.take,
                knows_loss=lambda: self._losses.any,
                note_loss=self.loss,
                tape=self._tape,
                ranks=num_ranks(model),
                joint=joint,
            )
            for which, (o, each) in enumerate(zip(optimizers, self._clippers, strict=True))
        ]
        self._model_hook = model.register_forward_hook(
            LossTap(self.loss, lambda: self.is_replaying)
        )

    def _keep_up(self, model: nn.Module, change: Change) -> bool:
        """Go on with what a replay showed to be sound; return whether that is in our hands."""
        if change.precision == "fp32":
            self._tape.widen(self.recorder.device.type)
            return True
        return keep_up(model, change)

    def loss(self, loss: Tensor | Callable[[], Tensor]) -> Tensor:
        """Note a loss of the current step, and return it as it is.

        Not compulsory: the loss of a model that returns it (`output.loss` or `output["loss"]`), and
        that of a closure, is seen anyway. Of several micro-batches the mean is recorded. Without
        gradients, as in evaluation, nothing is noted.

        Args:
            loss: 0-d; or a function that computes it, such as `lambda: loss_fn(model(x), y)`, so
                that the guard can replay the step to find the cause of an incident.
        """
        if not isinstance(loss, Tensor):
            loss = self._tape.compute(loss)
        self._losses.add(loss)
        return loss

    @property
    def is_replaying(self) -> bool:
        """Whether the guard is making steps again, which are none of the run's."""
        return self._rerun is not None and self._rerun.active

    def _take(self, record: StepRecord) -> None:
        """Take in one step's numbers: keep, write, log, and count skipped steps.

        Raises:
            DivergedError: More than `max_skips` steps in a row were left out.
        """
        self.steps = record.step
        self.history.append(record)
        values = record.values
        if self._writer is not None:
            record.append_to(self._writer)
        if len(self._loggers):
            self._loggers(record.step, record.scalars())
        if self.judge.rules:  # else nobody reads the history
            self.judge.history.order = self.judge.history.order or self.recorder.order
            self.judge.see(record)
        returned = self._tell_guard(record)
        if returned:
            self._skips_in_a_row = 0
        made = 0 if self.guard is None else self.guard.take_num_made_again()
        if returned == "made again":
            return
        self.skipped_steps -= made
        if not values["step.skipped"]:
            self._skips_in_a_row = 0
            self._clip_watch.see(values["gradient.clip_coefficient"], values["gradient.norm"])
            return
        self.skipped_steps += 1
        self._skips_in_a_row += 1
        if self._writer is not None:
            self._writer.event(record.step, "skipped", norm=values["gradient.norm"])
        if self._skips_in_a_row > self.max_skips:
            raise DivergedError(
                f"{self._skips_in_a_row} steps in a row had a gradient that was not finite and "
                "were left out. Parameters and optimizer are as the last good step left them. Look "
                "at the data and the loss first; then lower the learning rate or warm up longer."
            )

    def _tell_guard(self, record: StepRecord) -> Return:
        """Let the guard take in a step; return whether it has changed the state."""
        if self.guard is None:
            return ""
        values = record.values
        loss, norm = values["loss"], values["gradient.norm"]
        closed = self._tape.take(record)
        tape = None if closed is None else closed.tape
        if tape is not None:
            loss = tape.loss
        scaled = not values["loss_scale"] <= 1  # NaN: a scale that the loop has divided by itself
        lost = not math.isfinite(loss) and (tape is not None or not math.isnan(loss))
        shown = {k: v for k, v in values.items() if k in {"learning_rate", "loss_scale"}}
        outcome = Outcome(
            loss=loss,
            norm=norm,
            skipped=bool(values["step.skipped"]),
            flagged=bool(values["step.flagged"]),
            overflow=scaled and not math.isfinite(norm) and not lost,
            values=shown,
            tape=tape,
            number=record.step,
            which=0 if closed is None else closed.which,
        )
        returned = self.guard.note(outcome)
        if returned:
            self._renew_gradients(self.guard, record.step)
        return returned

    def _renew_gradients(self, guard: ActiveGuard, number: int) -> None:
        """See to gradients that another optimizer may be about to use: they are of no state now."""
        known = guard.goes_on_from_replay and number == guard.number
        if self._rerun is not None:
            self._rerun.hand_over_gradients(wanted=known)
        if not known:
            self._tape.forget_gradients()

    @property
    def incidents(self) -> list[Incident]:
        """What the guard had to do so far, oldest first."""
        self.recorder.sync()
        return [] if self.guard is None else list(self.guard.incidents)

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far: one finding for each cause, most causal first."""
        self.recorder.sync()
        causes = [] if self.guard is None else self.guard.findings
        causes = [each for each in causes if self._tells(each.code)]
        return merge([*causes, *self.judge.findings]) if causes else self.judge.findings

    @property
    def advice(self) -> list[Finding]:
        """What is worth knowing so far, although it does no harm."""
        self.recorder.sync()
        return self.judge.advice

    def _note_finding(self, finding: Finding) -> None:
        """Write a finding down, and say it unless another one explains it."""
        if self._writer is not None:
            note_finding(self._writer, finding)
        if finding.severity is not Severity.ADVICE and self.judge.is_cause(finding):
            fix = f" Fix: {finding.fix}." if finding.fix else ""
            warnings.warn(f"{finding}.{fix}", StabilityWarning, stacklevel=2)

    def _note_source(self, step: int, source: NonfiniteSource) -> None:
        """Write down where a value that is not finite came from."""
        self.judge.see_source(step, source)
        if self._writer is not None:
            fields: dict[str, str | int] = {"site": source.site, "num_rows": source.num_rows}
            if source.row is not None:
                fields["row"] = source.row
            self._writer.event(step, "nonfinite", what=source.kind, text=str(source), **fields)

    def run(self) -> Run:
        """Return everything recorded so far, to read as tables.

        Raises:
            StateError: Nothing is written to disk.
        """
        if self._writer is None or self.folder is None:
            raise StateError("This run is kept in memory only. Pass out= to attach() to record it.")
        self.recorder.sync()
        self._writer.flush()
        return load_run(self.folder)

    def report(self, path: Path | None = None) -> Path:
        """Write the run as one HTML file and return where; default `report.html` in its folder.

        Raises:
            StateError: Nothing is written to disk.
        """
        from trimtab.report import write_report

        return write_report([self.run().path], path)

    def plot(self) -> Any:
        """Return Matplotlib figures: losses and norms over the steps, and heat maps of layers.

        Raises:
            StateError: Nothing is written to disk.
        """
        from trimtab.report import plot

        return plot(self.run().path)

    def dead_units(self, module: str) -> Tensor | None:
        """Return which units of a module are dead, `(num_units,)`; None if that is not known.

        Raises:
            ConfigError: There is no such module, or it is not watched.
        """
        names = self.recorder.taps.names
        if module not in names:
            raise ConfigError(f"No module {module!r} is watched. Known are: {', '.join(names)}.")
        return self.recorder.taps.units.dead(names.index(module))

    def sync(self) -> None:
        """Take in the last step, waiting for the device if it is not there yet."""
        self.recorder.sync()

    def detach(self) -> None:
        """Take all hooks off, deliver what is on its way, and close the run folder.

        Model and optimizer are then as if nothing had ever been attached. A second call does
        nothing.
        """
        for hooks in self._hooks:
            hooks.remove()
        self._model_hook.remove()
        if self.guard is not None:
            self.guard.close()
        try:
            self.recorder.close()
        finally:
            if self._writer is not None:
                self._writer.close()
            self._loggers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps depend on: counters, the clipper's memory, all references."""
        self.sync()
        state = {
            "recorder": self.recorder.state_dict(),
            "judge": self.judge.state_dict(),
            "skipped_steps": self.skipped_steps,
            "skips_in_a_row": self._skips_in_a_row,
        }
        if self.guard is not None:
            state["guard"] = self.guard.state_dict()
        if self._clippers[0] is None:
            return state
        return state | {"clippers": [c.state_dict() for c in self._clippers if c is not None]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Raises:
            ConfigError: The state is of a run with a clipper, and this one has none, or the other
                way round.
        """
        saved, here = "clippers" in state, self._clippers[0] is not None
        if saved != here:
            raise ConfigError(
                f"The saved run has {'a' if saved else 'no'} clipper, this one has "
                f"{'one' if here else 'none'}. Attach with the clip= it was saved with."
            )
        self.recorder.load_state_dict(state["recorder"])
        if "judge" in state:  # older ones have none
            self.judge.load_state_dict(state["judge"])
        for clipper, memory in zip(self._clippers, state.get("clippers", ()), strict=False):
            if clipper is not None:
                clipper.load_state_dict(memory)
        if self.guard is not None and "guard" in state:
            self.guard.load_state_dict(state["guard"])
        self.steps = self.recorder.step
        self.skipped_steps = state["skipped_steps"]
        self._skips_in_a_row = state["skips_in_a_row"]
