"""replay_bundle: repeat a recorded incident in a fresh process, as it was and with changes."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.checkpoint import random_state, restore_random_state
from trimtab.engine._rerun import Replay, Rerun
from trimtab.engine._training_setup import TrainingSetup
from trimtab.errors import ConfigError, StateError
from trimtab.guard._bundle import Bundle, read_bundle
from trimtab.guard._change import Change
from trimtab.guard._environment import compare_environments, describe_environment
from trimtab.guard._incident import Experiment
from trimtab.guard._tape import MicroStep, OwnClip, TapeStep
from trimtab.optim import Clipper, as_clipper
from trimtab.signals import unwrapped

Compute = Callable[[nn.Module, Any], Tensor]
"""Returns the loss of a model on a recorded batch."""

NUM_PROBED: Final = 4
"""Healthy batches that the state after a replay is judged on: one alone is noise."""


def replay_bundle(
    incident: Bundle | Path | str,
    build: Callable[[int], TrainingSetup],
    *,
    changes: Sequence[Change] = (),
    compute: Compute | None = None,
    clipper: Clipper | None = None,
    parts: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[Experiment]:
    """Repeat a recorded incident: first as it was, then with each change.

    The run's model and optimizer are built anew, and the recorded steps made again from the
    snapshot in the bundle, with as many CPU threads as the run had. On a CPU with the same versions
    the first replay is bit for bit what was recorded; where it is not, its note says from which
    step on, and what differs between the two environments. Global random states and the number of
    threads are put back afterwards.

    Args:
        incident: Its folder, a file in it, or what `read_bundle` returned.
        build: Called with `seed`; model and optimizer have to be made as in the run. Their values
            do not matter: they come from the bundle.
        changes: Each is replayed alone.
        compute: Returns the loss for `(model, batch)`, where `batch` is as it was recorded. By
            default a `compute` attribute of the setup's loss function; without one
            `loss_fn(model(x), y)`, for batches of an input and a target.
        clipper: As in the run. By default the largest norm under `clip` in the bundle's settings;
            without that nothing is clipped.
        parts: What else the run had, by name, with `load_state_dict()`; the setup's scheduler is
            its `"schedule"`.
        seed: For `build`.

    Returns:
        A row for the replay as it was, and one for each change.

    Raises:
        ConfigError: There is no such incident, or `build` returns something else.
        StateError: The bundle is damaged, holds nothing to replay, or is of another model.
    """
    bundle = incident if isinstance(incident, Bundle) else read_bundle(Path(incident))
    if bundle.snapshot is None or not bundle.batches:
        raise StateError(
            f"Incident {bundle.path} holds no snapshot or no batches, so there is nothing to "
            "replay; its page shows what is known. A guard with keep_incidents above the number of "
            "incidents saves everything."
        )
    if len(bundle.snapshot.get("optimizers", ())) > 1:
        raise StateError(
            f"Incident {bundle.path} is of a loop with {len(bundle.snapshot['optimizers'])} "
            "optimizers, which cannot be replayed in a fresh process yet. Its page has the replays "
            "that were made when it happened."
        )
    before, threads = random_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(int(bundle.environment.get("threads", threads)))
        setup = build(seed)
        if not isinstance(setup, TrainingSetup):
            raise ConfigError(
                f"build must return a TrainingSetup, got {type(setup).__name__}. Return "
                "TrainingSetup(model, optimizer, loss_fn, batches)."
            )
        job = _Job.of(bundle, setup, compute=compute, clipper=clipper, parts=parts)
        return [job.replay(change) for change in (Change(), *changes)]
    finally:
        torch.set_num_threads(threads)
        restore_random_state(before)


@dataclass
class _Job:
    """A bundle that is ready to be replayed, as often as is asked for."""

    bundle: Bundle
    setup: TrainingSetup
    steps: list[TapeStep]
    clipper: Clipper | None
    parts: dict[str, Any]

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        setup: TrainingSetup,
        *,
        compute: Compute | None,
        clipper: Clipper | None,
        parts: Mapping[str, Any] | None,
    ) -> "_Job":
        loss = compute or getattr(setup.loss_fn, "compute", None) or _pairwise(setup)
        device = next(p.device for g in setup.optimizer.param_groups for p in g["params"])
        if clipper is None:
            clip = (bundle.config or {}).get("clip")
            clipper = as_clipper(clip) if isinstance(clip, int | float) else None
        named = {} if setup.scheduler is None else {"schedule": setup.scheduler}
        named |= {} if clipper is None else {"clipper": clipper}
        return cls(
            bundle=bundle,
            setup=setup,
            steps=[_tape_step(step, setup.model, loss, device) for step in bundle.batches],
            clipper=clipper,
            parts=named | dict(parts or {}),
        )

    def replay(self, change: Change) -> Experiment:
        """Make the recorded steps again from the snapshot."""
        assert self.bundle.snapshot is not None
        _restore(self.bundle.snapshot, self.setup, self.parts)
        rerun = Rerun(
            self.setup.model, [self.setup.optimizer], clippers=[self.clipper], parts=self.parts
        )
        began = time.perf_counter()
        decide = None if change.is_none else lambda loss, norm, _: self._is_bad(loss, norm)
        done = rerun.run(self.steps, change, decide=decide)
        made = [step.number for step in self.steps if step.number not in change.without]
        probe = self._probe(rerun)
        return Experiment(
            change=change,
            steps=tuple(made),
            losses=tuple(done.losses),
            norms=tuple(done.norms),
            probe=probe,
            healed=self._is_healed(made, done, probe),
            reproduced=done.first_difference is None if change.is_none else None,
            seconds=time.perf_counter() - began,
            note=self._note(change, done),
        )

    def _is_bad(self, loss: float, norm: float) -> bool:
        """Tell whether a step is not finite, or beyond the limits of before the incident."""
        limits = self.bundle.incident.limits
        high = loss > limits.get("loss_limit", math.inf)
        return high or norm > limits.get("norm_limit", math.inf) or not math.isfinite(loss + norm)

    def _is_healed(self, made: Sequence[int], done: Replay, probe: float) -> bool:
        first = self.bundle.incident.step
        rows = zip(made, done.losses, done.norms, strict=True)
        bad = any(self._is_bad(loss, norm) for step, loss, norm in rows if step >= first)
        limit = self.bundle.incident.limits.get("loss_limit", math.inf)
        return not bad and (math.isnan(probe) or probe <= limit)

    def _probe(self, rerun: Rerun) -> float:
        """Return the mean loss of the last good batches before the incident; NaN without any."""
        incident = self.bundle.incident
        suspected = set(incident.suspects.get("steps", ()))
        good = [
            step
            for step in self.steps
            if step.number < incident.step and step.number not in suspected
            if not step.skipped and not step.flagged
        ]
        if not good:
            return math.nan
        losses, norms = rerun.measure(good[-NUM_PROBED:])
        return sum(losses) / len(losses) if all(map(math.isfinite, [*losses, *norms])) else math.inf

    def _note(self, change: Change, done: Replay) -> str:
        if not change.is_none or done.first_difference is None:
            return ""
        note = f"differs from the record from step {done.first_difference} on"
        differences = compare_environments(self.bundle.environment, describe_environment())
        return f"{note}: {'; '.join(differences)}" if differences else note


def _pairwise(setup: TrainingSetup) -> Compute:
    """Return what computes the loss of a batch of input and target."""

    def compute(model: nn.Module, batch: Any) -> Tensor:
        x, y = _as_pair(batch)
        return setup.loss_fn(_call(model, x), y)

    return compute


def _as_pair(batch: Any) -> tuple[Any, Any]:
    """Return input and target of what was recorded: two values, or one that holds two.

    Raises:
        StateError: It is something else.
    """
    values = list(batch.values()) if isinstance(batch, Mapping) else batch
    if isinstance(values, list | tuple):
        if len(values) == 1 and isinstance(values[0], list | tuple):
            values = values[0]
        if len(values) == 2:
            return values[0], values[1]
    what = f"{', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
    raise StateError(
        f"The recorded batch is no pair of input and target, it is {what}. Pass "
        "compute=lambda model, batch: loss, or give the loss function of your setup an attribute "
        "`compute` that does this."
    )


def _call(model: nn.Module, x: Any) -> Any:
    """Call a model as a training setup promises: a dict by name, a tuple by place."""
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple | list) else model(x)


def _tape_step(
    step: Mapping[str, Any], model: nn.Module, compute: Compute, device: torch.device
) -> TapeStep:
    """Return a recorded step as one that can be made again."""
    known = _known(TapeStep, step)
    known["micro_steps"] = [_micro_step(m, model, compute, device) for m in step["micro_steps"]]
    clip = known.get("own_clip")
    known["own_clip"] = None if clip is None else OwnClip(**clip)
    return TapeStep(**{"skipped": False, "flagged": False} | known)


def _micro_step(
    micro: Mapping[str, Any], model: nn.Module, compute: Compute, device: torch.device
) -> MicroStep:
    """Return a recorded micro-step.

    Raises:
        StateError: Its batch was not saved.
    """
    batch = _moved(micro.get("batch"), device)
    if batch is None and not micro.get("dropped"):
        raise StateError(
            "The bundle holds no batch for one of its steps, so it cannot be replayed. Its page "
            "says under 'Not saved' why; keep batches in tensors, lists and dictionaries."
        )
    known = _known(MicroStep, micro) | {"batch": batch, "compute": lambda: compute(model, batch)}
    return MicroStep(**{"loss": None} | known)


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(each, device) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(each, device) for each in value)
    return value


@torch.no_grad()
def _restore(snapshot: Mapping[str, Any], setup: TrainingSetup, parts: Mapping[str, Any]) -> None:
    """Put the snapshot into model, optimizer and parts.

    Raises:
        StateError: It is of another model or optimizer; the message names the first difference.
    """
    saved = {**snapshot["model"], **snapshot.get("buffers", {})}
    here = dict(_tensors(unwrapped(setup.model)))
    for name in sorted(here.keys() ^ saved.keys()):
        where = "the incident" if name in saved else "what build returned"
        raise StateError(f"Only {where} has a tensor {name!r}. Build the model of the run.")
    for name, tensor in here.items():
        if tensor.shape != saved[name].shape:
            raise StateError(
                f"{name!r} is {tuple(saved[name].shape)} in the incident and "
                f"{tuple(tensor.shape)} in what build returned. Build the model of the run."
            )
        tensor.copy_(saved[name])
    for name, part in parts.items():
        if name in snapshot.get("parts", {}):
            part.load_state_dict(copy.deepcopy(snapshot["parts"][name]))
    try:  # torch takes the very tensors of a state dict, and the optimizer would write to them
        setup.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizers"][0]))
    except (LookupError, ValueError) as error:
        raise StateError(
            f"The optimizer that build returned does not fit the incident: {error}. Build the "
            "optimizer of the run, over the same groups of parameters."
        ) from error


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name; a tied one under each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def parse_changes(groups: Iterable[Sequence[str]]) -> list[Change]:
    """Return the changes that a command line asks for, each from its own words.

    >>> [str(change) for change in parse_changes([["lr=0.5"], ["clip=1", "without=7,8"]])]
    ['learning rate × 0.5', 'without the data of steps 7 to 8, gradients clipped to 1']

    Raises:
        ConfigError: A word is not NAME=VALUE, or names no change.
    """
    changes = []
    for words in groups:
        for word in words:
            if "=" not in word:
                raise ConfigError(f"A change has to be NAME=VALUE, such as lr=0.5; got {word!r}.")
        changes.append(Change.parse(dict(word.split("=", 1) for word in words)))
    return changes


def show(experiments: Sequence[Experiment]) -> str:
    """Return replays as a table of text, a row each.

    >>> row = Experiment(change=Change(lr=0.5), steps=(8, 9), losses=(1.25, 1.5), norms=(1, 1),
    ...                  probe=1.25, healed=True, reproduced=None, seconds=0.5)
    >>> print(show([row]))
    replayed with        the incident    last loss  healthy batches   took
    learning rate × 0.5  did not happen        1.5             1.25  0.5 s
    """
    head = ("replayed with", "the incident", "last loss", "healthy batches", "took")
    rows = [head, *map(_row, experiments)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    notes = ["", *(f"  ({e.note})" if e.note else "" for e in experiments)]
    return "\n".join(
        "  ".join(_aligned(row, widths)).rstrip() + note
        for row, note in zip(rows, notes, strict=True)
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Yield words to the left and numbers to the right."""
    for i, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if i < 2 else text.rjust(width)


def _row(experiment: Experiment) -> tuple[str, str, str, str, str]:
    outcome = "did not happen" if experiment.healed else "happened again"
    if experiment.reproduced is not None:
        outcome += ", bit for bit" if experiment.reproduced else ", not as recorded"
    last = f"{experiment.losses[-1]:.4g}" if experiment.losses else "none"
    probe = "none" if math.isnan(experiment.probe) else f"{experiment.probe:.4g}"
    return str(experiment.change), outcome, last, probe, f"{experiment.seconds:.1f} s"
