"""The checks of live objects, all at once, with everything put back afterwards."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from trimtab.errors import ConfigError
from trimtab.findings import Finding, Severity, merge
from trimtab.precision import check_precision
from trimtab.preflight._batch import LossFunction, as_batch
from trimtab.preflight._checks import CHECKS
from trimtab.preflight._curvature import Curvature, measure_curvature
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._restored import restored
from trimtab.preflight._subject import Settings, Subject, UnavailableError
from trimtab.signals import unwrapped

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What was found before the first step."""

    findings: tuple[Finding, ...]
    """Most causal first."""
    notes: tuple[str, ...] = ()
    """What could not be checked, and why."""
    curvature: Curvature | None = None
    """If it was asked for and could be measured."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found that is more than advice."""
        return all(f.severity is Severity.ADVICE for f in self.findings)

    def __str__(self) -> str:
        serious = sum(f.severity is not Severity.ADVICE for f in self.findings)
        advice = len(self.findings) - serious
        pieces = f"{_count(advice, 'piece')} of advice" if advice else "no advice"
        lines = [f"preflight: {_count(serious, 'finding')}, {pieces}"]
        for finding in self.findings:
            lines += ["", str(finding)]
            lines += [f"  {'evidence':<9} {evidence}" for evidence in finding.evidence]
            parts = {"why": finding.cause, "fix": finding.fix}
            lines += [f"  {name:<9} {text}" for name, text in parts.items() if text]
            lines += [f"  {'led to':<9} {each}" for each in finding.consequences]
        if self.curvature is not None:
            lines += ["", str(self.curvature)]
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)


def preflight(
    model: nn.Module,
    optimizer: Optimizers,
    loss_fn: LossFunction | None,
    batch: Any,
    *,
    scheduler: Any = None,
    total_steps: int | None = None,
    precision: str = "fp32",
    scaler: Any = None,
    accumulate: int = 1,
    global_batch: int | None = None,
    micro_batch: int | None = None,
    world_size: int | None = None,
    dataset_size: int | None = None,
    causal: bool | None = None,
    clip: float | None = None,
    curvature: bool = False,
    overfit_s: float = 5.0,
    rules: Iterable[LiveRule] | None = None,
    seed: int = 0,
) -> Preflight:
    """Check a model, its optimizer, its loss and one batch before the first step.

    A few forward and backward passes. Afterwards parameters, buffers, gradients, modes, optimizer,
    scheduler and all random state are what they were, bit for bit; a pass may leave traces only
    where a model keeps state of its own outside of its attributes. A check that fails hides no
    other: it becomes a note.

    Call it with the model as it goes into training: on its device, in training mode.

    Args:
        model: Wrapped or not.
        optimizer: One, several that share the work, or None.
        loss_fn: Called with what the model returns and the target. None: the model returns the
            loss, alone, in a tuple, or as `loss` of an object or a dictionary.
        batch: `(inputs, target)` as a data loader yields it; inputs are a tensor, a tuple of
            arguments or a mapping of keyword arguments. Without `loss_fn` all that the model takes.
        scheduler: Of the (first) optimizer; steps are looked ahead on a copy.
        total_steps: Length of the run.
        precision: `"fp32"`, `"bf16"` or `"fp16"`, as the forward pass will run.
        scaler: The loss scaler, for fp16.
        accumulate: Micro-batches a step.
        global_batch: Examples a step that are meant, over all processes.
        micro_batch: Examples a forward pass in one process. None: those of `batch`.
        world_size: Processes. None: those of the process group, or 1.
        dataset_size: Examples in the training data.
        causal: Whether the model must not see the future. None: if the target is the input,
            shifted by one.
        clip: Norm that the loop will clip gradients at; without it the first steps are tried
            unclipped.
        curvature: Whether to measure the sharpness and the learning rate that it allows; costs
            about 40 backward passes more.
        overfit_s: Longest that each trial of training takes, in seconds; 0 leaves them out.
        rules: What to check. None: everything.
        seed: Of the passes' random numbers.

    Returns:
        Findings, most causal first, and notes on what could not be checked.

    Raises:
        ConfigError: An argument cannot be used: no batch, a model without a shape, a negative
            number.
    """
    plain = unwrapped(model) if isinstance(model, nn.Module) else model
    settings = Settings(
        total_steps=total_steps,
        precision=check_precision(precision),
        scaler=scaler,
        accumulate=accumulate,
        global_batch=global_batch,
        micro_batch=micro_batch,
        world_size=world_size,
        dataset_size=dataset_size,
        causal=causal,
        clip=clip,
        overfit_s=overfit_s,
        seed=seed,
    )
    _check(plain, optimizer, settings)
    optimizers = _as_tuple(optimizer)
    subject = Subject(
        plain,
        optimizers,
        loss_fn,
        as_batch(batch, loss_fn),
        scheduler=scheduler,
        settings=settings,
    )
    chosen = [rule() for rule in CHECKS] if rules is None else list(rules)
    with restored(plain, loss_fn):
        if curvature:
            subject.curvature = _guarded_curvature(subject)
        for rule in chosen:
            _run(rule, subject)
    return Preflight(
        findings=tuple(merge(subject.findings)),
        notes=tuple(dict.fromkeys(subject.notes)),
        curvature=subject.curvature,
    )


def _run(rule: LiveRule, subject: Subject) -> None:
    try:
        subject.findings.extend(rule.check(subject))
    except UnavailableError:
        return
    except Exception as error:  # noqa: BLE001 - a check must not hide the others
        subject.notes.append(
            f"{rule.code} {rule.name} could not be checked: {type(error).__name__}: {error}"
        )


def _guarded_curvature(subject: Subject) -> Curvature | None:
    try:
        return measure_curvature(subject)
    except UnavailableError:
        subject.notes.append(
            "The curvature could not be measured, as the forward pass or its loss failed."
        )
    except Exception as error:  # noqa: BLE001 - a second derivative may not exist
        subject.notes.append(
            f"The curvature could not be measured: {type(error).__name__}: {error}"
        )
    return None


def _as_tuple(optimizer: Optimizers) -> tuple[torch.optim.Optimizer, ...]:
    if optimizer is None:
        return ()
    return (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer)


def _check(model: object, optimizer: Optimizers, settings: Settings) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"preflight checks a torch.nn.Module, got {type(model).__name__}.")
    for each in _as_tuple(optimizer):
        if not isinstance(each, torch.optim.Optimizer):
            raise ConfigError(
                f"optimizer must be a torch.optim.Optimizer, several of them, or None; got "
                f"{type(each).__name__}."
            )
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(p) or p.is_meta:
            raise ConfigError(
                f"{name} has no values yet. Run one batch through a lazy model, or move one from "
                "the meta device, before preflight."
            )
    counts = ("total_steps", "accumulate", "global_batch", "micro_batch", "world_size")
    for name in (*counts, "dataset_size"):
        value = getattr(settings, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
