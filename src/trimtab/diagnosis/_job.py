"""One training run of somebody's model, watched: by signals, by a trace of calls, by losses."""

import math
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from trimtab.diagnosis._batches import Pair, call_model, measure, size_of, tensors_in
from trimtab.diagnosis._curvature import measure_sharpness
from trimtab.diagnosis._reach import reachable
from trimtab.diagnosis._trace import Trace, is_users
from trimtab.engine import Trim, attach, describe_run
from trimtab.errors import ConfigError, StabilityWarning
from trimtab.rules import Judge
from trimtab.signals import (
    NonfiniteSource,
    StepRecord,
    Watch,
    locate_nonfinite,
    locate_nonfinite_gradient,
)

TRACED: Final = 40
"""Calls of the loop body that are traced at the most; until then, as many as two steps take."""
ENOUGH_STEPS: Final = 6
BROKEN: Final = 8
"""Losses in a row that are not finite after which there is nothing more to see."""

TrainStep = Callable[[nn.Module, torch.optim.Optimizer, Callable[..., Tensor], Any, Any], Any]


@dataclass
class Job:
    """What is trained, and how."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[..., Tensor]
    scheduler: Any = None
    """Moved after each step, unless the loop body has hold of it."""
    train_step: TrainStep | None = None
    others: Sequence[Any] = ()
    """What else has a state that the loop body may change, such as its own schedule or scaler."""
    reshapes: bool = False
    """Whether the loop body reshapes outputs or targets before it compares them."""


@dataclass
class Log:
    """What one run showed."""

    losses: list[float] = field(default_factory=list)
    """One for each call of the loop body; NaN if it gave none."""
    supervised: bool = False
    """Whether the loss is the loss function's, of the model's output and the batch's targets."""
    nonfinite: NonfiniteSource | None = None
    nonfinite_call: int | None = None
    bad_gradient: str | None = None
    """Parameter whose gradient was not finite first, while the loss was."""
    bad_gradient_call: int | None = None
    error: BaseException | None = None
    error_place: tuple[str, int] | None = None
    num_steps: int = 0
    adversary: bool = False
    """Whether the loop body steps another optimizer as well, as in a GAN."""
    trace: Trace | None = None
    records: list[StepRecord] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    """What a reader of the records wants to know of the run."""


class Watched:
    """Runs a job and notes what happens.

    Args:
        job: That is run; its objects are changed.
        judge: Rules that see the signals; None measures nothing.
        traced: Whether the order of calls is looked at.
        curvature: Calls between two measurements of the sharpness; 0 makes none.
    """

    def __init__(
        self,
        job: Job,
        *,
        judge: Judge | None = None,
        traced: bool = False,
        curvature: int = 0,
    ) -> None:
        self.job, self.judge, self.curvature = job, judge, curvature
        self.log = Log(trace=Trace(job.model, job.optimizer) if traced else None)
        self._records: list[StepRecord] = []
        self._trim: Trim | None = None
        self._call = 0
        self._measuring = False
        self._pair: Pair = (None, None)
        self._last_loss = float("nan")
        self._args: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._outputs: list[Tensor] = []
        self._loss_fn = self._watched_loss()
        # Whether the loop body moves it in each call or once an epoch cannot be known beforehand.
        theirs = any(v is job.scheduler for v in reachable(job.train_step))
        self._moves_schedule = job.scheduler is not None and not theirs

    def run(self, pairs: Iterable[Pair], every: int) -> Log:
        """Train on all pairs, or until the losses stay broken.

        Args:
            pairs: Inputs and targets.
            every: Steps between two records.
        """
        handles: list[Any] = []
        try:
            self._attach(every, handles)
            for pair in pairs:
                self._call += 1
                if not self._one(pair) or self._is_broken():
                    break
        finally:
            if self._trim is not None:
                self._trim.detach()
            for handle in handles:
                handle.remove()
        return self.log

    def _attach(self, every: int, hooks: list[Any]) -> None:
        job = self.job
        hooks.append(job.optimizer.register_step_pre_hook(self._look_at_gradients))
        hooks.append(job.optimizer.register_step_post_hook(self._count))
        hooks.append(register_optimizer_step_post_hook(self._see_other))
        hooks.append(job.model.register_forward_hook(self._note_forward, with_kwargs=True))
        if isinstance(job.loss_fn, nn.Module):
            hooks.append(job.loss_fn.register_forward_hook(self._module_loss, with_kwargs=True))
        if self.judge is None:
            return
        watch = Watch(parameters=every, modules=every, histograms=0, burst=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)
            try:
                self._trim = attach(
                    job.model, job.optimizer, clip=None, guard=None, watch=watch, out=None,
                    max_skips=10**9,
                )  # fmt: skip
            except ConfigError:  # an optimizer of other parameters: seen by the checks before
                return
        recorder = self._trim.recorder
        recorder.sinks.append(self._records.append)
        self.log.info = describe_run(
            job.model, [job.optimizer], recorder, clipper=None, config=None
        )

    def _one(self, pair: Pair) -> bool:
        """Run the loop body once; returns whether it got through."""
        job, self._pair, self._last_loss = self.job, pair, float("nan")
        x, y = pair
        place, steps = _place_of(job.scheduler), self.log.num_steps
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StabilityWarning)
                with self._tracing(size_of(x)):
                    loss = (job.train_step or plain_step)(
                        job.model, job.optimizer, self._loss_fn, x, y
                    )
                if place != _place_of(job.scheduler):  # the loop body does it
                    self._moves_schedule = False
                if self._moves_schedule and self.log.num_steps > steps:
                    self._move_schedule(loss)
        except Exception as error:  # noqa: BLE001 # of the user's loop; becomes a finding
            self.log.error, self.log.error_place = error, _place(error)
            return False
        self._note_loss(loss)
        self._deliver()
        return True

    def _move_schedule(self, loss: Any) -> None:
        scheduler = self.job.scheduler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                number = _number(loss)
                scheduler.step(self._last_loss if number is None else number)
            else:
                scheduler.step()

    def _tracing(self, size: tuple[int, int]) -> AbstractContextManager[None]:
        trace = self.log.trace
        enough = trace is None or self._call > TRACED
        if enough or trace is None or (self._call > 8 and self.log.num_steps >= ENOUGH_STEPS):
            return nullcontext()
        return trace.watch(self._call, size)

    def _note_loss(self, loss: Any) -> None:
        """Note the loss that the loop body returned, else what its loss function did."""
        number = _number(loss)
        given = self._last_loss if number is None else number
        self.log.losses.append(given)
        if number is not None and not math.isfinite(number) and self.log.nonfinite_call is None:
            self.log.nonfinite_call = self._call  # too late to look where it came from

    def _is_broken(self) -> bool:
        recent = self.log.losses[-BROKEN:]
        broken = not any(math.isfinite(value) for value in recent)
        return len(recent) == BROKEN and broken and self.log.nonfinite_call is not None

    def _deliver(self) -> None:
        """Hand records to the judge, with the loss and the batch that belong to them."""
        if self.judge is None:
            self._records.clear()
            return
        x, y = self._pair
        for record in self._records:
            loss = record.values.get("loss", float("nan"))
            record.values["loss"] = self.log.losses[-1] if loss != loss else loss
            record.values |= measure("input", x) | measure("target", y)
            if self.curvature and self._call % self.curvature == 0:
                record.values |= self._sharpness()
            if self._trim is not None and not self.judge.history.order:
                self.judge.history.order = self._trim.recorder.order
            self.judge.see(record)
            self.log.records.append(record)
        self._records.clear()

    def _sharpness(self) -> dict[str, float]:
        self._measuring = True  # the loss is not one of the run's
        try:
            job = self.job
            return measure_sharpness(job.model, job.optimizer, job.loss_fn, self._pair)
        finally:
            self._measuring = False

    def _look_at_gradients(self, *_: Any) -> None:
        """Note the first gradient that is not finite although the loss was."""
        if self.log.bad_gradient_call is not None or self.log.nonfinite_call is not None:
            return
        if getattr(self.job.optimizer, "grad_scale", None) is not None:  # a GradScaler decides
            return
        params = list(self.job.model.named_parameters())
        sums = [p.grad.float().sum().cpu() for _, p in params if p.grad is not None]
        if sums and not bool(torch.stack(sums).isfinite().all()):
            order = [] if self._trim is None else self._trim.recorder.order
            self.log.bad_gradient = locate_nonfinite_gradient(params, order)
            self.log.bad_gradient_call = None if self.log.bad_gradient is None else self._call

    def _see_other(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.log.adversary = self.log.adversary or optimizer is not self.job.optimizer

    def _count(self, *_: Any) -> None:
        self.log.num_steps += 1
        if self.log.trace is not None:
            self.log.trace.num_steps += 1

    def _note_forward(self, _module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            self._args = (args, kwargs)
            self._outputs = [t.detach() for t in tensors_in(output)]

    def _watched_loss(self) -> Callable[..., Tensor]:
        loss_fn = self.job.loss_fn
        if isinstance(loss_fn, nn.Module):  # seen through a hook, so that it stays what it is
            return loss_fn

        def watched(*args: Any, **kwargs: Any) -> Any:
            loss = loss_fn(*args, **kwargs)
            self._see_loss([*args, *kwargs.values()], loss)
            return loss

        return watched

    def _module_loss(self, _module: nn.Module, args: Any, kwargs: Any, loss: Any) -> None:
        self._see_loss([*args, *kwargs.values()], loss)

    def _see_loss(self, args: Sequence[Any], loss: Any) -> None:
        if not isinstance(loss, Tensor) or not torch.is_grad_enabled() or self._measuring:
            return
        self._last_loss = float(loss.detach().float().mean())
        if self._trim is not None:
            self._trim.loss(loss)
        if self.log.trace is not None:
            summed = getattr(self.job.loss_fn, "reduction", None) == "sum"
            self.log.trace.loss(self._call, loss, summed=summed)
        if not self.log.supervised and len(args) > 1:
            own = _is_among(args[0], self._outputs)
            targets = tensors_in(self._pair[1])
            theirs = _is_among(args[1], targets) or _is_part(args[1], targets)
            self.log.supervised = own and theirs
        if not math.isfinite(self._last_loss) and self.log.nonfinite_call is None:
            self.log.nonfinite_call = self._call
            self.log.nonfinite = self._locate()

    def _locate(self) -> NonfiniteSource | None:
        """Return where the first value that is not finite came up; None if it cannot be told."""
        if self._args is None:
            return None
        try:
            found = locate_nonfinite(self.job.model, *self._args)
        except Exception:  # noqa: BLE001 # a model that cannot be run twice is no fault of the loop
            return None
        return found or NonfiniteSource(kind="loss", site="loss")


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[..., Tensor],
    x: Any,
    y: Any,
) -> Any:
    """Train on one batch, the way a correct loop does."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(call_model(model, x), y)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        return optimizer.step(closure)  # type: ignore[no-untyped-call] # torch leaves it untyped
    loss = closure()
    optimizer.step()
    return loss


def _number(loss: Any) -> float | None:
    """Return the loss that a loop body gave; None if it gave none."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return float(loss.detach())
    is_number = isinstance(loss, int | float) and not isinstance(loss, bool)
    return float(loss) if is_number else None


def _is_among(given: Any, own: Sequence[Tensor]) -> bool:
    """Tell whether something is one of these tensors, or all of them: reshaped it is another."""
    parts = tensors_in(given)
    if not isinstance(given, Tensor) and len(parts) != len(own):
        return False
    return bool(parts) and all(any(_is_same(part, o) for o in own) for part in parts)


def _is_same(given: Tensor, own: Tensor) -> bool:
    if given.shape != own.shape:
        return False
    return given.data_ptr() == own.data_ptr() or bool((given == own.to(given.device)).all())


def _is_part(given: Any, own: Sequence[Tensor]) -> bool:
    """Tell whether a tensor is some rows of one of these."""
    if not isinstance(given, Tensor) or given.ndim == 0:
        return False
    storage = given.untyped_storage().data_ptr()
    rows = [o for o in own if o.ndim and o.shape[1:] == given.shape[1:]]
    return any(o.untyped_storage().data_ptr() == storage for o in rows)


def _place_of(scheduler: Any) -> Any:
    """Return what changes when a schedule moves."""
    if scheduler is None or hasattr(scheduler, "last_epoch"):
        return getattr(scheduler, "last_epoch", None)
    if hasattr(scheduler, "_schedulers"):  # torch's ChainedScheduler
        return [_place_of(part) for part in scheduler._schedulers]
    return repr(scheduler.state_dict())


def _place(error: BaseException) -> tuple[str, int] | None:
    """Return file and line of the last frame of the user's code."""
    frames = traceback.walk_tb(error.__traceback__)
    own = [(f.f_code.co_filename, line) for f, line in frames if is_users(f)]
    return own[-1] if own and not own[-1][0].startswith("<") else None
