"""The training loop: every step through the Stepper, everything on disk, resumable exactly."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from rich.markup import escape

from trimtab.checkpoint import (
    AsyncCheckpointer,
    list_checkpoints,
    load_latest,
    mark_checkpoint,
    random_state,
    restore_random_state,
)
from trimtab.engine import Stepper, StepResult
from trimtab.errors import DivergedError
from trimtab.findings import Finding, merge
from trimtab.guard import Incident
from trimtab.precision import autocast
from trimtab.train._build import (
    build_guard,
    build_judge,
    build_optimizer,
    build_recorder,
    build_schedule,
    open_writer,
)
from trimtab.train._device import pick_device, pick_precision
from trimtab.train._folder import RunFolder
from trimtab.train._interrupt import BrokenOff, StopRequest
from trimtab.train._metrics import MetricsFile, Row
from trimtab.train._progress import Display
from trimtab.train._task import Batch, RecipeConfig, Scope, Task

FINAL_LOSS_STEPS: Final = 10
"""Steps whose mean training loss is `final_loss`; that of one step is noise."""


@dataclass(frozen=True)
class _Before:
    """Where a run was before the step under way."""

    step: int
    tokens: int
    random: dict[str, Any]


class Training:
    """One run over a task: the loop, and what it keeps between steps.

    Args:
        task: Model, data and loss.
        config: Settings of the recipe.
        folder: Already created.
        display: Where the user watches.
    """

    def __init__(
        self, task: Task, config: RecipeConfig, *, folder: RunFolder, display: Display
    ) -> None:
        self.task, self.config, self.folder, self.display = task, config, folder, display
        self.device: Final = pick_device(config.run.device)
        task.model.to(self.device)
        optimizer = build_optimizer(task.model, config.optimizer)
        self.recorder: Final = build_recorder(task.model, optimizer, config.run.watch)
        self.stepper: Final = Stepper(
            task.model,
            optimizer,
            clip=config.optimizer.clip or None,
            precision=pick_precision(config.run, self.device),
            accumulate=config.optimizer.accumulate,
            schedule=build_schedule(optimizer, config.optimizer, config.run.steps),
            recorder=self.recorder,
            guard=build_guard(config, folder),
        )
        self._writer = open_writer(self.stepper, config, folder)
        self.judge: Final = build_judge(self.stepper, self._writer, display.found)
        self.step = 0
        """Steps made or skipped."""
        self.tokens = 0
        self.initial_loss = math.nan
        self.scores: dict[str, float] = {}
        self._recent_losses: deque[float] = deque(maxlen=FINAL_LOSS_STEPS)
        self._seconds_before = 0.0
        self._began = time.perf_counter()
        self._saved_at = -1
        self._save_s = 0.0
        self._last_incident: Incident | None = None
        self._before = _Before(0, 0, random_state())
        self._checkpointer = AsyncCheckpointer()
        self._metrics = MetricsFile(folder.metrics)
        self._unread: tuple[StepResult, Row] | None = None
        self._disk_failed = False

    @property
    def saved(self) -> bool:
        """Whether the newest step is in a checkpoint."""
        return self._saved_at == self.step

    @property
    def seconds(self) -> float:
        """Seconds of training, over all sessions of the run."""
        return self._seconds_before + time.perf_counter() - self._began

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last steps."""
        recent = self._recent_losses
        return sum(recent) / len(recent) if recent else math.nan

    def resume(self) -> None:
        """Go back to the newest whole checkpoint, and drop the metrics after it."""
        self.step, model, state = load_latest(self.folder.checkpoints, healthy=True)
        self.task.model.load_state_dict(model)
        self.stepper.load_state_dict(state["stepper"])
        restore_random_state(state["random"])
        if self.recorder is not None and "recorder" in state:
            self.recorder.load_state_dict(state["recorder"])
        if self.judge is not None and "judge" in state:
            self.judge.load_state_dict(state["judge"])
        self.tokens, self.initial_loss = state["tokens"], state["initial_loss"]
        self.scores, self._seconds_before = state["scores"], state["seconds"]
        self._recent_losses.extend(state["recent_losses"])
        self._saved_at = self.step
        self._metrics.keep_until(self.step)

    def run(self, stop: StopRequest) -> str:
        """Train until the last step, or until somebody asks to stop.

        Returns:
            How it ended: `"finished"`, `"interrupted"` or `"diverged"`.
        """
        self._began = time.perf_counter()
        self.task.model.train()
        try:
            return self._run(stop)
        except DivergedError as error:
            self.display.say(f"[red]{escape(str(error))}[/]")
            self.save(last=True)  # the state is that of the last good step
            return "diverged"
        finally:
            self.close()

    def _run(self, stop: StopRequest) -> str:
        """Do as `run` says.

        Raises:
            DivergedError: The run is lost.
        """
        total, every = self.config.run.steps, self.config.run
        try:
            while self.step < total and not stop:
                with stop.breakable():
                    self._train_step()
                    if self.step < total and _is_due(self.step, every.eval_every):
                        self._validate("quick")
                if self.step < total and _is_due(self.step, every.save_every):
                    self.save()
                    stop.save_s = self._save_s
            if self.step == total:
                with stop.breakable():
                    self._validate("full")
        except BrokenOff:
            return self._break_off()
        self.save(last=True)
        return "finished" if self.step == total else "interrupted"

    def _break_off(self) -> str:
        """Save the last whole step after one that was broken off; without it, go by what is saved.

        Returns:
            How the run ended.
        """
        self.task.model.train()
        if self.stepper.abandon():
            if self._before.step == self.step:  # else it had ended
                restore_random_state(self._before.random)
                self.tokens = self._before.tokens
            self.save(last=True)
        else:
            self.display.say(
                "[red]An update was broken off, so its step cannot be saved.[/] "
                "The run goes on from the newest checkpoint."
            )
        return "interrupted"

    @property
    def findings(self) -> list[Finding]:
        """What is wrong with the run so far, most causal first."""
        causes = [] if self.stepper.guard is None else self.stepper.guard.findings
        return merge([*causes, *([] if self.judge is None else self.judge.findings)])

    def close(self) -> None:
        """Write what has not been written yet, and close the files."""
        self._write_row()
        self._metrics.close()
        with self.on_disk("a checkpoint"):
            self._checkpointer.close()
        if self.recorder is not None:
            self.recorder.close()
        if self._writer is not None:
            self._writer.close()

    def _train_step(self) -> None:
        """Make one optimizer step.

        Raises:
            DivergedError: Too many steps in a row were skipped.
        """
        self._before = _Before(self.step, self.tokens, random_state())
        accumulate = self.config.optimizer.accumulate
        for index in range(self.step * accumulate, (self.step + 1) * accumulate):
            batch = self._to_device(self.task.batch(index))
            weight = self.task.weight(batch)
            self.stepper.backward(partial(self.task.loss, self.task.model, batch), weight)
            self.tokens += weight
        try:
            self._take(self.stepper.step())
            self._look_back()
        except DivergedError as error:
            if isinstance(error.result, StepResult):
                self._take(error.result)
            raise

    def _look_back(self) -> None:
        """Call checkpoints unhealthy that were written after the state the guard went back to."""
        guard = self.stepper.guard
        if guard is None or not guard.incidents or guard.incidents[-1] is self._last_incident:
            return
        self._last_incident = guard.incidents[-1]
        back = self._last_incident.snapshot_step
        if back is None:
            return
        with self.on_disk("a checkpoint"):
            self._checkpointer.wait()
            for path in list_checkpoints(self.folder.checkpoints):
                if int(path.name.removeprefix("step-")) > back:
                    mark_checkpoint(path, healthy=False)

    def _take(self, result: StepResult) -> None:
        """Count a step; its numbers are read when the next one is under way."""
        self._write_row()
        self.step += 1
        row: Row = {"step": self.step, "lr": result.lr, "tokens": self.tokens}
        self._unread = (result, row | {"seconds": round(self.seconds, 3)})

    def _to_device(self, batch: Batch) -> Batch:
        inputs, targets = batch
        return (
            inputs.to(self.device, non_blocking=True),
            targets.to(self.device, non_blocking=True),
        )

    def _write_row(self) -> None:
        """Write and show the step that was held back, if any."""
        if self._unread is None:
            return
        (result, row), self._unread = self._unread, None
        row |= {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "clip_coefficient": result.clip_coefficient,
            "loss_scale": result.loss_scale,
            "skipped": int(result.skipped),
        }
        if row["step"] == 1:
            self.initial_loss = result.loss
        self._recent_losses.append(result.loss)
        with self.on_disk("the metrics"):
            self._metrics.append(row)
        self.display.step(row)

    @torch.no_grad()
    def _validate(self, scope: Scope) -> None:
        """Measure the validation loss; it goes into the row of the step just made."""
        model = self.task.model
        model.eval()
        with autocast(self.device.type, self.stepper.precision):
            self.scores = self.task.evaluate(model, scope)
        model.train()
        if self._unread is not None:
            self._unread[1]["val_loss"] = self.scores["val_loss"]
        self._write_row()
        self.display.validated(self.step, self.scores)

    def save(self, *, last: bool = False) -> None:
        """Write a checkpoint of everything the run depends on, unless this step has one.

        Args:
            last: Wait until it is on the disk; otherwise training goes on meanwhile.
        """
        self._write_row()
        with self.on_disk("a checkpoint"):
            self._finish_saving(wait=last or not self.saved)
        if self.saved:
            return
        state = {
            "stepper": self.stepper.state_dict(),
            "random": random_state(),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "scores": self.scores,
            "initial_loss": self.initial_loss,
            "recent_losses": list(self._recent_losses),
        }
        if self.recorder is not None:
            state["recorder"] = self.recorder.state_dict()
        if self.judge is not None:
            state["judge"] = self.judge.state_dict()
        began = time.perf_counter()
        with self.on_disk("a checkpoint"):
            self._checkpointer.save(
                self.folder.checkpoints,
                self.step,
                model=self.task.model.state_dict(),
                state=state,
                keep=self.config.run.keep_checkpoints,
                healthy=self.stepper.guard is None or self.stepper.guard.healthy,
            )
            self._saved_at = self.step
            self._finish_saving(wait=last)
        self._save_s = time.perf_counter() - began

    def _finish_saving(self, *, wait: bool) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            OSError: It could not be written; its step counts as not saved.
        """
        if not wait:
            return
        try:
            self._checkpointer.wait()
        except OSError:
            self._saved_at = -1
            raise

    @contextmanager
    def on_disk(self, what: str) -> Iterator[None]:
        """Let training go on when the disk is full or gone; say so once.

        Args:
            what: Is being written.
        """
        try:
            yield
        except OSError as error:
            if not self._disk_failed:
                path = escape(str(self.folder.path))
                self.display.say(
                    f"[red]Could not write {what} to {path}: {error.strerror}.[/] "
                    "Training goes on; free some space before the next checkpoint."
                )
            self._disk_failed = True


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
