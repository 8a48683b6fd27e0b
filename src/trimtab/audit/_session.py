"""One session of training, written down step by step so that two can be compared."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.audit._fingerprint import fingerprint
from trimtab.audit._random import random_fingerprints
from trimtab.audit._snapshot import Parts, snapshot
from trimtab.checkpoint import random_state
from trimtab.diagnosis._batches import Batches, Pair
from trimtab.diagnosis._job import plain_step
from trimtab.engine import TrainingSetup


@dataclass
class StepSeen:
    """One step: what went in, and what came out."""

    batch: str = ""
    """Fingerprint of inputs and targets."""
    draws: frozenset[str] = frozenset()
    """Whose global random state the step drew from."""
    loss: float = math.nan
    weights: str = ""
    """Fingerprint of parameters and buffers after the step."""
    updated: bool = False
    """Whether the optimizer made a step in it."""

    @property
    def result(self) -> tuple[str, str, str]:
        """What has to be the same in a run that resumes exactly."""
        return self.batch, repr(self.loss), self.weights


@dataclass
class Session:
    """What a piece of training did.

    Args:
        setup: Trained.
        keep_at: Steps of this session before which a snapshot is taken; a second one is taken at
            the end.
        functions: Of the user's, whose state belongs to the run.
    """

    setup: TrainingSetup
    keep_at: int = -1
    functions: Sequence[Any] = ()
    steps: list[StepSeen] = field(default_factory=list)
    kept: Parts | None = None
    random: dict[str, str] = field(default_factory=dict)
    """Fingerprints of the global random states at the snapshot."""
    random_state: dict[str, Any] = field(default_factory=dict)
    """The states themselves."""
    pairs: Sequence[Pair] = ()
    """The batches, as far as there was room to keep them."""
    end: Parts | None = None
    error: str = ""
    """What the training raised, if that was caught."""
    _open: StepSeen | None = None
    _before: dict[str, str] = field(default_factory=dict)

    def begin(self, batch: Any) -> None:
        """Note that a step begins."""
        self._before = random_fingerprints()
        if len(self.steps) == self.keep_at and self.kept is None:
            self.kept, self.random = snapshot(self.setup, self.functions), self._before
            self.random_state = random_state()
        self._open = StepSeen(batch=fingerprint(batch))

    def note(self, *, loss: Any = None, batch: Any = None) -> None:
        """Note a loss of the open step, or a further part of its batch."""
        if self._open is None:
            return
        number = _number(loss)
        self._open.loss = self._open.loss if number is None else number
        if batch is not None:
            self._open.batch = fingerprint(self._open.batch, batch)

    def finish(self, *, updated: bool = True) -> None:
        """Note that the step has been made."""
        done, after = self._open or StepSeen(), random_fingerprints()
        done.draws = frozenset(k for k, v in self._before.items() if after.get(k) != v)
        model = self.setup.model
        done.weights = fingerprint(dict(model.named_parameters()), dict(model.named_buffers()))
        done.updated = updated
        self.steps.append(done)
        self._open = None

    @property
    def is_open(self) -> bool:
        """Whether a step has begun."""
        return self._open is not None

    def close(self) -> None:
        """Take the last snapshot."""
        self.end = snapshot(self.setup, self.functions)


def train(session: Session, num_steps: int, pairs: Sequence[Pair] | None = None) -> None:
    """Train a setup with its own loop body, or with the usual five lines.

    Args:
        session: Where the steps are written down.
        num_steps: Calls of the loop body.
        pairs: In place of the setup's own batches.
    """
    setup = session.setup
    body = setup.train_step or plain_step
    updates: list[None] = []
    batches = Batches(setup.batches if pairs is None else list(pairs))
    hook = setup.optimizer.register_step_post_hook(lambda *_: updates.append(None))
    try:
        for x, y in batches.take(num_steps):
            updates.clear()
            session.begin((x, y))
            place = _place(setup)
            loss = body(setup.model, setup.optimizer, setup.loss_fn, x, y)
            if place == _place(setup) and updates:
                _move_schedule(setup.scheduler, loss)
            session.note(loss=loss)
            session.finish(updated=bool(updates))
    finally:
        hook.remove()
    session.pairs = batches.kept
    session.close()


Run = Callable[[TrainingSetup, int, Any], Any]
"""A training function of the user's: `run(setup, num_steps, folder)` trains until that step, goes
on from what an earlier call left in the folder, and saves there before it returns."""


def watch(session: Session, run: Run, num_steps: int, folder: Any) -> None:
    """Let a training function of the user's train, and note its steps through hooks."""
    with _hooks(session):
        run(session.setup, num_steps, folder)
    session.close()


@contextmanager
def _hooks(session: Session) -> Iterator[None]:
    setup = session.setup

    def forward(_module: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.is_grad_enabled():
            if session.is_open:
                session.note(batch=(args, kwargs))
            else:
                session.begin((args, kwargs))

    def before_step(*_: Any) -> None:
        if not session.is_open:  # the model was not called as a module
            session.begin(None)

    handles: Final[list[Any]] = [
        setup.model.register_forward_pre_hook(forward, with_kwargs=True),
        setup.optimizer.register_step_pre_hook(before_step),
        setup.optimizer.register_step_post_hook(lambda *_: session.finish()),
    ]
    own = setup.loss_fn
    if isinstance(own, nn.Module):
        handles.append(own.register_forward_hook(lambda _m, _args, loss: session.note(loss=loss)))
    else:
        setup.loss_fn = _noting(own, session)
    try:
        yield
    finally:
        setup.loss_fn = own
        for handle in handles:
            handle.remove()


def _noting(loss_fn: Callable[..., Tensor], session: Session) -> Callable[..., Tensor]:
    def noted(*args: Any, **kwargs: Any) -> Tensor:
        loss = loss_fn(*args, **kwargs)
        session.note(loss=loss)
        return loss

    return noted


def _place(setup: TrainingSetup) -> str:
    """Return what changes when the schedule moves."""
    scheduler = setup.scheduler
    return "" if scheduler is None else fingerprint(scheduler.state_dict())


def _move_schedule(scheduler: Any, loss: Any) -> None:
    if scheduler is None:
        return
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step(_number(loss) or 0.0)
    else:
        scheduler.step()


def _number(loss: Any) -> float | None:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return float(loss.detach())
    is_number = isinstance(loss, int | float) and not isinstance(loss, bool)
    return float(loss) if is_number else None
