"""Training for a few steps and taking it back: at the user's settings, and to overfit one batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trimtab.checkpoint import seeded
from trimtab.preflight._baseline import baseline
from trimtab.preflight._loss_calls import LossListener
from trimtab.preflight._restored import shadow_optimizer, trial_parameters
from trimtab.preflight._subject import Subject

RATES: Final = ((3e-3, 80), (3e-4, 60), (3e-2, 60))
"""Learning rates of Adam that are tried one after the other, and for how many steps each. The 40
healthy set-ups of `tests/preflight/test_healthy.py` got there with the first, in 1 to 57 steps."""
GOAL: Final = 0.9
"""Share of the best constant guess's loss that has to be undercut."""
NUM_LABELS: Final = 256
"""Labels that a trial of overfitting uses, in 2 to 16 examples."""


@dataclass(frozen=True)
class Trial:
    """A few steps with the user's own optimizer on one batch."""

    losses: tuple[float, ...]
    """Before each step, and after the last."""
    rates: tuple[float, ...]
    """Highest learning rate of each step."""


@dataclass(frozen=True)
class Overfit:
    """An attempt to learn a few examples by heart, with Adam."""

    solved: bool | None
    """None: the time was over before it was clear."""
    initial: float
    best: float
    goal: float
    baseline: float | None
    """Loss of the best constant guess, where the kind of loss is known."""
    num_examples: int
    steps: int
    identical: tuple[str, ...] = ()
    """Weights whose units were identical before and after."""


def run_trial(subject: Subject, *, num_steps: int = 10) -> Trial | None:
    """Take the first steps of the run on one batch; None if its optimizer needs more than that.

    With momentum 0.9 it takes up to nine steps until a rate that is too high shows.
    """
    if not subject.optimizers or isinstance(subject.optimizers[0], torch.optim.LBFGS):
        return None
    rates = subject.rates(num_steps)
    params = list(subject.trainable.values())
    over = subject.deadline()
    losses: list[float] = []
    with trial_parameters([*subject.parameters.values(), *subject.held]):
        shadows = [shadow_optimizer(o) for o in subject.optimizers]
        for step in range(num_steps):
            loss, grads = subject.compute_gradients()
            losses.append(float(loss))
            if over() or not math.isfinite(losses[-1]):
                break
            _give(params, _clipped(grads, subject.settings.clip))
            for group, rate in zip(shadows[0].param_groups, rates[step], strict=True):
                _set_rate(group, rate)
            for shadow in shadows:
                shadow.step()
    return Trial(tuple(losses), tuple(max(r, default=0.0) for r in rates[: len(losses)]))


def run_overfit(subject: Subject) -> Overfit | None:
    """Try to learn a few examples by heart; None if there is nothing to try."""
    small = subject.batch.first(_num_examples(subject))
    params = list(subject.trainable.values())
    listener = LossListener()
    with torch.no_grad(), listener:
        initial = float(subject.compute_loss(small))
    guess = baseline(listener.calls, initial)
    goal = initial - 0.05 * abs(initial) if guess is None else GOAL * min(initial, guess)
    if not params or not math.isfinite(initial) or abs(initial) < 1e-4:
        return None
    if guess is not None and goal < 1e-6:  # the same label everywhere
        return None
    twins = identical_weights(subject)
    over = subject.deadline()
    solved, best, total = False, initial, 0
    for rate, num in RATES:
        with trial_parameters(params), seeded(subject.settings.seed):
            optimizer = torch.optim.Adam(params, lr=rate)
            for _ in range(num):
                loss, grads = subject.compute_gradients(small)
                best = min(best, float(loss)) if math.isfinite(float(loss)) else best
                if best < goal or over():
                    break
                _give(params, _clipped(grads, 1.0))
                optimizer.step()
                total += 1
            solved = best < goal
            still = [n for n in twins if _is_uniform(subject.parameters[n])]
            twins = still if total >= 3 else twins
        if solved or over():
            break
    return Overfit(
        solved=True if solved else (None if over() else False),
        initial=initial,
        best=best,
        goal=goal,
        baseline=guess,
        num_examples=small.size,
        steps=total,
        identical=tuple(twins) if total >= 3 else (),
    )


def identical_weights(subject: Subject) -> list[str]:
    """Return the names of trainable matrices whose units all have the same weights."""
    return [n for n, p in subject.trainable.items() if _is_uniform(p)]


@torch.no_grad()
def _is_uniform(p: Tensor) -> bool:
    if p.ndim < 2 or p.shape[0] < 2 or p.numel() == p.shape[0] * 0:
        return False
    spread = (p - p[:1]).abs().max()
    return bool(spread <= 1e-6 * p.abs().max())


def _num_examples(subject: Subject) -> int:
    labels = next((t.numel() for t in subject.batch.tensors[-1:]), 1)
    each = max(1, labels // max(1, subject.batch.size))
    return max(2, min(16, NUM_LABELS // each))


def _give(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad


def _clipped(grads: Sequence[Tensor | None], max_norm: float | None) -> list[Tensor | None]:
    dense = [g.to_dense() if g is not None and g.is_sparse else g for g in grads]
    present = [g for g in dense if g is not None]
    if max_norm is None or not present:
        return dense
    norm = float(torch.stack([torch.linalg.vector_norm(g.float()) for g in present]).norm())
    factor = min(1.0, max_norm / norm) if norm > 0 and math.isfinite(norm) else 1.0
    return [g if g is None else g * factor for g in dense]


def _set_rate(group: dict[str, object], rate: float) -> None:
    lr = group["lr"]
    group["lr"] = torch.full_like(lr, rate) if isinstance(lr, Tensor) else rate
