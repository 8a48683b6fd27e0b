"""The sharpness before the first step, and what it means for learning rate and warmup."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trimtab.preflight._batch import Batch
from trimtab.preflight._sharpness import (
    estimate_second_moments,
    held_parameters,
    sharpness,
)
from trimtab.preflight._subject import Subject, UnavailableError

NUM_PARTS: Final = 4
"""Parts of the batch that the noise of its gradient is estimated from."""


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """How sharp the loss is at the first weights."""

    sharpness: float
    """Largest eigenvalue of the Hessian, for an adaptive optimizer of the preconditioned one."""
    preconditioned: bool
    """Whether it is that of P^-1/2 H P^-1/2."""
    largest_stable_lr: float
    """Beyond it a quadratic bowl as sharp as this throws the optimizer out."""
    lr: float
    """Of the first step."""
    peak_lr: float
    """Highest in the first 1,000 steps of the schedule."""
    warmup_steps: int
    """Suggested; 0 where the learning rate is below the limit, and where warmup does not help."""
    iterations: int
    """Products with the Hessian that were made."""

    @property
    def margin(self) -> float:
        """Factor by which the highest learning rate stays below the limit; 1 is the limit."""
        return self.largest_stable_lr / self.peak_lr if self.peak_lr > 0 else math.inf

    def __str__(self) -> str:
        kind = "preconditioned sharpness" if self.preconditioned else "sharpness"
        warmup = f", warmup of {self.warmup_steps} steps suggested" if self.warmup_steps else ""
        return (
            f"curvature: {kind} {self.sharpness:.3g}, largest stable learning rate "
            f"{self.largest_stable_lr:.2g}, highest one planned {self.peak_lr:.2g} "
            f"(margin {self.margin:.2g}){warmup}"
        )


def measure_curvature(subject: Subject) -> Curvature:
    """Measure the sharpness on the subject's batch, at its present weights.

    Raises:
        UnavailableError: There is no optimizer, or the loss could not be computed.
    """
    if not subject.optimizers or subject.measured.error is not None:
        raise UnavailableError
    optimizer = subject.optimizers[0]
    params = held_parameters(subject.model, optimizer)
    parts = _parts(subject.batch)
    moments = None
    if len(parts) > 1 and not optimizer.state:
        moments = estimate_second_moments([_closure(subject, p) for p in parts], params)
    found = sharpness(
        subject.model,
        optimizer,
        subject.compute_loss,
        second_moments=moments,
        generator=torch.Generator().manual_seed(subject.settings.seed),
    )
    rates = subject.rates(min(subject.settings.total_steps or 1000, 1000))
    peak = max(max(step) for step in rates)
    return Curvature(
        sharpness=found.value,
        preconditioned=found.preconditioned,
        largest_stable_lr=found.limit,
        lr=max(rates[0]),
        peak_lr=peak,
        warmup_steps=suggest_warmup(peak / found.limit, optimizer),
        iterations=found.iterations,
    )


def suggest_warmup(ratio: float, optimizer: torch.optim.Optimizer) -> int:
    """Return steps of linear warmup for a learning rate that is `ratio` times the limit.

    None below the limit, and none for SGD: it starts where networks are flat and sharpens as it
    learns, so a warmup of 50 steps saved hardly a run
    (`benchmarks/results/curvature-*.json`). The same let Adam survive rates two to three times as
    high; its second moments need 2 / (1 - beta2) steps.

    Source: Ma & Yarats 2021, arXiv:1910.04209, section 5.
    """
    betas = optimizer.param_groups[0].get("betas")
    if ratio <= 1 or betas is None:
        return 0
    return round(2 / max(1e-4, 1 - float(betas[1])))


def _parts(batch: Batch) -> list[Batch]:
    size = batch.size // NUM_PARTS
    if size < 2:
        return [batch]
    return [batch.part(i * size, (i + 1) * size) for i in range(NUM_PARTS)]


def _closure(subject: Subject, part: Batch) -> Callable[[], Tensor]:
    return lambda: subject.compute_loss(part)
