"""audit_resume: train without a break, train again with one, and name what differs."""

import copy
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trimtab.audit._audit import Audit, allowed
from trimtab.audit._audit_rule import ResumeRule
from trimtab.audit._comparison import Comparison
from trimtab.audit._control import resumes_with_checkpoint
from trimtab.audit._random import random_fingerprints
from trimtab.audit._session import Run, Session, train, watch
from trimtab.audit._snapshot import others_of
from trimtab.audit.tt810_hidden_state_not_resumed import HiddenStateNotResumed
from trimtab.checkpoint import seeded
from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError, StateError
from trimtab.findings import Finding, Selection, merge

Build = Callable[[int], TrainingSetup]
"""From a seed to a run that is ready to begin."""
Save = Callable[[TrainingSetup], Any]
"""From a run to its state, as `torch.save` can write it."""
Load = Callable[[TrainingSetup, Any], Any]
"""Puts the state into a run that was built afresh."""


def audit_resume(
    build: Build,
    *,
    save: Save | None = None,
    load: Load | None = None,
    run: Run | None = None,
    steps: int = 10,
    stop: int | None = None,
    seed: int = 0,
    selection: Selection | None = None,
) -> Audit:
    """Train without a break, train again with one, and name what differs, bit for bit.

    The interrupted run is saved to bytes after `stop` steps and loaded into objects that are built
    afresh, as a new process would. What the optimizer holds is filled with noise before, so that
    nothing survives by luck. What a module of yours keeps in global variables does survive: a
    process that really ends would lose it.

    Args:
        build: From a seed to a fresh `TrainingSetup`; has to draw everything from the seed or from
            the global random states.
        save: From a setup to its state, your own code; default: the state dicts of model,
            optimizer, schedule and, where it has one, of the loader, as most loops do it.
        load: `load(setup, state)` puts it back; may replace `setup.batches`.
        run: In place of both, your whole training function: `run(setup, num_steps, folder)` trains
            until that step, goes on from what an earlier call left in the folder, and saves there
            before it returns. It is watched through hooks of model and optimizer.
        steps: Of the whole run: calls of the loop body, or optimizer steps of `run`.
        stop: Steps before the interruption; default the half, but not where an epoch ends, as
            a loader that begins anew would be right there.
        seed: Of the run; random states are put back afterwards.
        selection: Which rules speak, and with which thresholds.

    Returns:
        Findings, most causal first; none if the run resumes bit for bit.

    Raises:
        ConfigError: An argument cannot work, or the state cannot be written.
        StateError: The setup trains no step.

    Examples:
        >>> def build(seed):
        ...     model = torch.nn.Linear(2, 1)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        ...     batches = [(torch.ones(4, 2), torch.ones(4, 1))]
        ...     return TrainingSetup(model, optimizer, torch.nn.MSELoss(), batches)
        >>> audit_resume(build).ok
        True
        >>> forgets = lambda setup: setup.model.state_dict()
        >>> loads = lambda setup, state: setup.model.load_state_dict(state)
        >>> [f.name for f in audit_resume(build, save=forgets, load=loads).findings]
        ['optimizer-not-resumed']
    """
    _check(build, save, load, run, steps, stop)
    job = _Job(build, save or save_usual, load or load_usual, run, seed)
    with tempfile.TemporaryDirectory(prefix="trimtab-audit-") as folder:
        runs, at = _compare(job, steps, stop, Path(folder))
    chosen = selection or Selection()
    every = replace(chosen, select=(), ignore=())  # what is not to be said explains all the same
    rules = [r for r in every.rules("audit") if isinstance(r, ResumeRule)]
    found = allowed(merge(_judge(rules, runs)), chosen)
    facts: dict[str, Any] = {"steps": steps, "interrupted after": at}
    if runs.differs_from is None:
        facts["result"] = "every batch, loss and weight after resuming is equal bit for bit"
    else:
        facts["result"] = f"the resumed run differs from step {runs.differs_from} on"
    if runs.resumed.error:
        facts["the resumed run raised"] = runs.resumed.error
    if run is None and found:
        with _shared_state(runs.whole.setup, ()):
            facts["with trimtab.checkpoint"] = resumes_with_checkpoint(build, runs, seed)
    return Audit(subject="resume", findings=found, facts=facts)


def save_usual(setup: TrainingSetup) -> dict[str, Any]:
    """Return what most loops save: state dicts of model, optimizer, schedule and loader."""
    return {name: part.state_dict() for name, part in _parts(setup).items()}


def load_usual(setup: TrainingSetup, state: dict[str, Any]) -> None:
    """Put back what `save_usual` returned."""
    for name, part in _parts(setup).items():
        part.load_state_dict(state[name])


def _parts(setup: TrainingSetup) -> dict[str, Any]:
    parts = {"model": setup.model, "optimizer": setup.optimizer, "schedule": setup.scheduler}
    parts["batches"] = setup.batches
    return {name: part for name, part in parts.items() if hasattr(part, "load_state_dict")}


@dataclass(frozen=True)
class _Job:
    """What is audited."""

    build: Build
    save: Save
    load: Load
    run: Run | None
    seed: int

    @property
    def functions(self) -> Sequence[Any]:
        return () if self.run is None else (self.run,)

    def made(self, seed: int) -> TrainingSetup:
        """Return a fresh setup.

        Raises:
            ConfigError: The build function returned something else.
        """
        setup = self.build(seed)
        if not isinstance(setup, TrainingSetup):
            raise ConfigError(
                "build(seed) must return a trimtab.engine.TrainingSetup, got "
                f"{type(setup).__name__}."
            )
        return setup


def _judge(rules: Sequence[ResumeRule], runs: Comparison) -> Iterator[Finding]:
    found = [finding for rule in rules for finding in rule.check(runs)]
    if runs.unrepeated is not None:  # what differs later says nothing
        yield from (f for f in found if f.code == "TT809")
        return
    hidden = [r for r in rules if isinstance(r, HiddenStateNotResumed)]
    if not found and hidden and runs.differs_from is not None:
        found = [hidden[0].unexplained(runs)]
    yield from found


def _compare(job: _Job, steps: int, stop: int | None, folder: Path) -> tuple[Comparison, int]:
    """Train three times: whole, until the interruption, and from there on.

    Raises:
        ConfigError: The state cannot be written or read, or the build function is not one.
        StateError: No step was made.
    """
    with seeded(job.seed):
        setup = job.made(job.seed)
        at = _stop(setup, steps) if stop is None else stop
        with _shared_state(setup, job.functions) as restart:
            whole = Session(setup, at, job.functions)
            _go(job, whole, steps, folder / "whole")
            if len(whole.steps) <= at:
                raise StateError(
                    f"The run made {len(whole.steps)} optimizer steps and should be interrupted "
                    f"after {at}. Let it train setup.optimizer until step {steps}."
                )
            restart()
            with seeded(job.seed):
                first = Session(job.made(job.seed), -1, job.functions)
                _go(job, first, at, folder / "parts")
                saved_random = random_fingerprints()
                data = _to_bytes(job.save(first.setup)) if job.run is None else b""
            restart()
            with seeded(job.seed):
                resumed = Session(job.made(job.seed), 0, job.functions)
                _scramble_(resumed.setup)
                if job.run is None:
                    job.load(resumed.setup, _from_bytes(data))
                loaded = random_fingerprints() if job.run is None else None
                left = steps if job.run is not None else steps - at
                _go_on(job, resumed, left, folder / "parts")
    runs = Comparison(
        stop=at,
        whole=whole,
        first=first,
        resumed=resumed,
        saved_random=saved_random,
        loaded_random=loaded,
    )
    return runs, at


def _go(job: _Job, session: Session, num_steps: int, folder: Path) -> None:
    if job.run is None:
        train(session, num_steps)
        return
    folder.mkdir(exist_ok=True)
    watch(session, job.run, num_steps, folder)


def _go_on(job: _Job, session: Session, num_steps: int, folder: Path) -> None:
    """Go on after loading, and note an error, of which the state that was loaded is the cause."""
    try:
        _go(job, session, num_steps, folder)
    except Exception as error:
        if session.kept is None:  # loading itself failed
            raise
        session.error = f"{type(error).__name__}: {error}"


@torch.no_grad()
def _scramble_(setup: TrainingSetup) -> None:
    """Add noise to whatever is trained, so that it cannot be right without having been loaded."""
    generator = torch.Generator().manual_seed(0)
    for group in setup.optimizer.param_groups:
        for p in group["params"]:
            if p.is_floating_point():
                noise = torch.randn(p.shape, generator=generator)
                p.add_(noise.to(device=p.device, dtype=p.dtype))


def _stop(setup: TrainingSetup, steps: int) -> int:
    """Return the half of the steps, moved by one where an epoch ends there."""
    half = steps // 2
    try:
        length = len(setup.batches)  # type: ignore[arg-type] # asked whether it has one
    except TypeError:
        return half
    ends = length > 1 and half % length == 0
    return half if not ends else half - 1 if half > 1 else half + 1


@contextmanager
def _shared_state(setup: TrainingSetup, functions: Sequence[Any]) -> Iterator[Callable[[], None]]:
    """Give a function that puts global scalers and the like back to their beginning."""
    kept = []
    for each in others_of(setup, functions):
        with suppress(Exception):  # not ours to judge
            kept.append((each, copy.deepcopy(each.state_dict())))

    def restart() -> None:
        for each, state in kept:
            with suppress(Exception):  # likewise
                each.load_state_dict(copy.deepcopy(state))

    try:
        yield restart
    finally:
        restart()


def _to_bytes(state: Any) -> bytes:
    """Write a state the way `torch.save` does.

    Raises:
        ConfigError: It cannot be written.
    """
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
    except Exception as error:
        raise ConfigError(
            f"What save() returned cannot be written by torch.save: {error}. Return state dicts, "
            "tensors, numbers, texts and containers of these."
        ) from error
    return buffer.getvalue()


def _from_bytes(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)  # our own bytes of a moment ago


def _check(
    build: object, save: object, load: object, run: object, steps: object, stop: object
) -> None:
    """Refuse arguments that cannot work.

    Raises:
        ConfigError: One cannot.
    """
    for name, value in (("build", build), ("save", save), ("load", load), ("run", run)):
        if not callable(value) and not (value is None and name != "build"):
            raise ConfigError(f"{name} must be a function, got {type(value).__name__}.")
    if (save is None) != (load is None):
        given, other = ("load", "save") if save is None else ("save", "load")
        raise ConfigError(f"{given} was given without {other}. Pass both, or neither.")
    if run is not None and save is not None:
        raise ConfigError("run saves and loads by itself. Leave out save and load.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ConfigError(f"steps must be a whole number of at least 2, got {steps!r}.")
    if stop is not None and (
        isinstance(stop, bool) or not isinstance(stop, int) or not 0 < stop < steps
    ):
        raise ConfigError(
            f"stop must be a whole number of at least 1 and below steps ({steps}), got {stop!r}."
        )
