"""attach: clip, guard and watch any training loop from inside `optimizer.step()`."""

import copy
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor, nn

from trimtab.engine._loop_tape import LoopTape
from trimtab.engine._optimizer_hooks import OptimizerHooks, refuse_attached
from trimtab.engine._pitfalls import ClipWatch, refuse_foreign
from trimtab.engine._ranks import largest, num_ranks
from trimtab.engine._rerun import Rerun, keep_up
from trimtab.engine._run_info import describe_run, open_run
from trimtab.errors import ConfigError, DivergedError, StabilityWarning, StateError
from trimtab.findings import Finding, Rule, Selection, Severity, merge
from trimtab.guard import ActiveGuard, Change, Guard, GuardLike, Incident, Outcome, Return, as_guard
from trimtab.optim import Clipper, as_clipper
from trimtab.rules import Judge, describe_setup, note_finding, run_rules
from trimtab.signals import (
    NonfiniteSource,
    Recorder,
    Run,
    ScalarLoggers,
    StepRecord,
    Uncopied,
    Watch,
    as_watch,
    load_run,
)

HISTORY: Final = 200
"""Step records that are kept in memory."""


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    clip: float | Clipper | None = 1.0,
    guard: GuardLike = "auto",
    watch: bool | int | Watch = True,
    out: Path | str | Literal["auto"] | None = "auto",
    loggers: Sequence[Callable[[int, Mapping[str, float]], None]] = (),
    config: Mapping[str, Any] | None = None,
    max_skips: int = 50,
    judge: bool | Selection = True,
    stateful: Mapping[str, Any] | None = None,
) -> "Trim":
    """Clip, guard, measure, record and judge every step of a training loop that stays as it is.

    Works through hooks of the modules and of `optimizer.step()`, so a plain loop, Lightning, the
    Transformers Trainer and Accelerate need no other change. Gradient accumulation, `GradScaler`,
    DDP and FSDP2 stay the loop's own business; what is clipped and measured is what the optimizer
    is about to use, after unscaling.

    A model that is compiled has to be attached before its first call: torch.compile does not look
    at hooks that come later. Under Lightning and Accelerate, steps that their loss scale leaves out
    are not seen.

    With a fused optimizer clipping and skipping ride on the update itself. Another one on an
    accelerator has to wait for one value a step; pass `fused=True` to it, or `guard=None`.

    Args:
        model: As it is trained: plain, compiled, wrapped in DDP or sharded.
        optimizer: One or several, over this model's parameters. LBFGS is measured only.
        clip: Largest joint L2 norm of the gradients, or a `Clipper`; None leaves them alone. A
            loop that clips by itself is clipped to the lower of the two.
        guard: Which steps are left out, and what is done if they go on: the name of a policy,
            `"observe"`, a policy, a `trimtab.guard.Guard`, or None, which leaves out none. A step
            that is left out touches neither parameters nor buffers nor the optimizer's state.
            `"auto"` is `"spike"`, and where several processes train one model `"nonfinite"` without
            going back; any other guard has them exchange two numbers a step, so it has to be
            attached on every rank.
        watch: What is measured how often: True for the defaults, False for the numbers of each
            step alone, a number of steps between records, or a `Watch`.
        out: Run folder for what is measured; `"auto"` makes one under `runs/`, None keeps it in
            memory only. Needs the `watch` extra.
        loggers: Called with each record: `trimtab.signals.tensorboard_logger(...)` and its like,
            or any function of step and numbers.
        config: Settings of the run to keep beside it; what JSON can hold.
        max_skips: Steps left out in a row before `DivergedError` ends the run.
        judge: Whether rules look at the measurements: what is wrong is in `findings`, in the run
            folder, and said once as a `StabilityWarning`. A `Selection` says which rules, and with
            which thresholds.
        stateful: What else has a state and goes back with a snapshot, by name: an average of the
            weights, a `GradScaler`. Anything with `state_dict` and `load_state_dict`.

    Returns:
        What shows the measurements and takes all of it off again.

    Raises:
        ConfigError: The optimizer holds no parameter of the model, or a value is out of range.
        StateError: The optimizer is attached already.

    Examples:
        >>> model = nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with attach(model, optimizer, out=None) as trim:
        ...     loss = trim.loss(model(torch.ones(8, 4)).square().mean())
        ...     loss.backward()
        ...     optimizer.step()
        >>> trim.steps
        1
    """
    given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    return Trim(
        model,
        _as_optimizers(given),
        clipper=as_clipper(clip),
        guard=_as_guard(guard, num_ranks(model)),
        joint=guard != "auto",
        stateful=stateful or {},
        watch=as_watch(watch),
        out=out,
        loggers=loggers,
        config=config,
        max_skips=max_skips,
        rules=as_rules(judge),
        tells=judge.allows if isinstance(judge, Selection) else lambda _: bool(judge),
        take_overflow=not _overflow_is_theirs(model, given),
    )


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
        self._clippers: Final = _clippers(clipper, len(optimizers))
        self.steps, self.skipped_steps, self._skips_in_a_row = 0, 0, 0
        self.history: deque[StepRecord] = deque(maxlen=HISTORY)
        self._clip_watch = ClipWatch()
        self._loggers = ScalarLoggers(loggers)
        params = [[p for g in o.param_groups for p in g["params"]] for o in optimizers]
        self.recorder: Final = Recorder(model, *params, watch=watch)
        # Sum and number, on the device: a list would make torch.compile count its length.
        wide = torch.float64 if self.recorder.at_once else torch.float32
        self._losses = torch.zeros(2, dtype=wide, device=self.recorder.device)
        self._noted = False  # whether there is any, which the host may know
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
        self._rerun: Rerun | None = None
        self.guard: Final = self._make_guard(
            guard, model, optimizers, stateful, config, joint=joint
        )
        scalers = [v for v in stateful.values() if isinstance(v, torch.amp.GradScaler)]
        self._tape = LoopTape(self.guard, scalers[0] if scalers else None)
        self._hooks = [
            OptimizerHooks(
                o,
                self.recorder,
                each,
                which=which,
                guard=self.guard,
                take_overflow=take_overflow,
                take_loss=self._take_loss,
                knows_loss=lambda: self._noted,
                note_loss=self.loss,
                close_tape=partial(self._tape.close, o),
                ranks=num_ranks(model),
                joint=joint,
            )
            for which, (o, each) in enumerate(zip(optimizers, self._clippers, strict=True))
        ]
        self._model_hook = model.register_forward_hook(_LossTap(self))

    def _make_guard(
        self,
        config: Guard | None,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        stateful: Mapping[str, Any],
        run_config: Mapping[str, Any] | None,
        *,
        joint: bool,
    ) -> ActiveGuard | None:
        guarded = [o for o in optimizers if not isinstance(o, torch.optim.LBFGS)]
        if config is None or not guarded:
            return None
        ranks, device = num_ranks(model) if joint else 1, self.recorder.device
        parts = {f"clipper{i}": c for i, c in enumerate(self._clippers) if c is not None}
        if len(optimizers) == 1:
            self._rerun = Rerun(
                model, guarded[0], clipper=self._clippers[0], recorder=self.recorder
            )
        return ActiveGuard(
            config,
            model,
            optimizers,
            parts={**parts, **stateful},
            replayer=self._rerun,
            folder=lambda: None if self.folder is None else self.folder / "incidents",
            agree=lambda yes: bool(largest(float(yes), device, ranks)),
            slowest=lambda value: largest(value, device, ranks),
            apply=lambda change: self._keep_up(model, change),
            run_config=lambda: run_config,
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
        if isinstance(loss, Tensor) and loss.numel() == 1 and torch.is_grad_enabled():
            self._losses[0] += loss.detach().reshape(()).to(self._losses.device)
            self._losses[1] += 1
            self._noted = True
        return loss

    @property
    def is_replaying(self) -> bool:
        """Whether the guard is making steps again, which are none of the run's."""
        return self._rerun is not None and self._rerun.active

    def _take_loss(self) -> Tensor:
        """Return the mean of the losses noted since the last step; NaN if there is none."""
        total, count = self._losses.to(self.recorder.device, copy=True)
        self._losses.zero_()
        self._noted = False
        mean: Tensor = total / count
        return mean

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
        tape = self._tape.take(record)
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
        )
        return self.guard.note(outcome)

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


def _as_guard(guard: GuardLike, ranks: int) -> Guard | None:
    """Return the settings of the guard; those of `"auto"` need no exchange between ranks."""
    if guard != "auto":
        return as_guard(guard)
    return Guard() if ranks == 1 else Guard(policy="nonfinite", snapshots=0, explain=False)


def as_rules(judge: bool | Selection) -> Sequence[Rule]:  # noqa: FBT001 # what a user may pass
    """Return the rules for what a user may pass.

    Raises:
        ConfigError: It is something else.
    """
    if isinstance(judge, bool):
        return run_rules() if judge else []
    if isinstance(judge, Selection):
        return run_rules(judge)
    raise ConfigError(f"judge must be True, False or a Selection, got {type(judge).__name__}.")


class _LossTap(Uncopied):
    """The forward hook of the whole model, which sees a loss that the model itself returns."""

    def __init__(self, trim: Trim) -> None:
        self.trim = trim

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) or not (module.training and torch.is_grad_enabled()):
            return
        if self.trim.is_replaying:
            return
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(loss, Tensor):
            self.trim.loss(loss)


def _as_optimizers(given: Sequence[Any]) -> list[torch.optim.Optimizer]:
    """Return the torch optimizers that are meant; wrappers of other engines are seen through.

    Raises:
        ConfigError: There is none, or one is named twice.
    """
    found: list[torch.optim.Optimizer] = []
    for each in given:
        inner = each
        while type(inner).__name__ in {"AcceleratedOptimizer", "LightningOptimizer"}:
            inner = inner.optimizer
        if not isinstance(inner, torch.optim.Optimizer):
            raise ConfigError(
                "optimizer must be a torch optimizer or a list of them, got "
                f"{type(inner).__name__}."
            )
        if any(inner is other for other in found):
            raise ConfigError(f"The list of optimizers names one {type(inner).__name__} twice.")
        found.append(inner)
    if not found:
        raise ConfigError("optimizer is an empty list; there is nothing to attach to.")
    return found


def _overflow_is_theirs(model: nn.Module, optimizers: Sequence[Any]) -> bool:
    """Tell whether an engine wants to see for itself which steps a GradScaler left out.

    Lightning refuses to clip for an optimizer that unscales by itself, and Accelerate holds the
    schedule when `step()` was not called.
    """
    lightning = any(kind.__name__ == "LightningModule" for kind in type(model).__mro__)
    return lightning or any(type(o).__name__ == "AcceleratedOptimizer" for o in optimizers)


def _clippers(clipper: Clipper | None, number: int) -> list[Clipper | None]:
    """Return one clipper for each optimizer: what one remembers must not mix with the others'."""
    shared = clipper is None or not clipper.state_dict()
    return [clipper if shared or i == 0 else copy.deepcopy(clipper) for i in range(number)]
