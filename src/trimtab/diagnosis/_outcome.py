"""How a run went: what it learned, measured without knowing the task."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from trimtab.diagnosis._answers import answers
from trimtab.diagnosis._batches import Pair
from trimtab.diagnosis._job import Job

NUM_PROBED: Final = 8
"""Batches that a model is probed on."""

LEARNED: Final = 0.03
"""Share of the loss of the best constant answer below which a run has learned nothing."""

SOUND: Final = 0.5
"""Share of the loss of the best constant answer from which on a run that ends at its best is sound,
whatever it looks like on the way."""

ABSURD: Final = 100.0
"""Share of it that only a loss without a bound can leave behind: a likelihood, which may become
negative, leaves a few times all of it."""

TRIVIAL: Final = 1e-3
"""Share of the first loss below which the best constant answer leaves nothing to learn."""


@dataclass(frozen=True)
class Probe:
    """A model on some fixed batches, without training."""

    loss: float
    """Mean loss."""
    shuffled: float
    """Mean loss against the targets of other examples; NaN with one example a batch."""
    finite: bool

    @property
    def gap(self) -> float:
        """What the model's answers know of their own examples."""
        return self.shuffled - self.loss


def probe(job: Job, pairs: Sequence[Pair], seed: int) -> Probe | None:
    """Measure a model on fixed batches, in the mode that it is in; None if it cannot be called.

    Args:
        job: Whose model and loss are used; buffers may move.
        pairs: Inputs and targets.
        seed: For the order of shuffled targets.
    """
    generator = torch.Generator().manual_seed(seed)
    own, other = [], []
    try:
        with torch.no_grad():
            for output, y in answers(job, pairs[:NUM_PROBED]):
                own.append(_value(job.loss_fn(output, y)))
                moved = shuffled(y, generator)
                other.append(math.nan if moved is None else _value(job.loss_fn(output, moved)))
    except Exception:  # noqa: BLE001 # the loop body calls the model another way
        return None
    if not own:
        return None
    finite = all(math.isfinite(v) for v in own)
    return Probe(statistics.fmean(own), statistics.fmean(other), finite)


def _value(loss: Any) -> float:
    return float(loss.detach().float().mean()) if isinstance(loss, Tensor) else float(loss)


def shuffled(y: Any, generator: torch.Generator) -> Any:
    """Return targets in another order; None if there is only one example, or they are nested."""
    if not isinstance(y, Tensor) or y.ndim == 0 or len(y) < 2:
        return None
    return y[torch.randperm(len(y), generator=generator).to(y.device)]


def constant_loss(job: Job, pairs: Sequence[Pair]) -> float | None:
    """Return the loss of the best answer that ignores the input; None if it cannot be found.

    The answer is one vector for all examples, found by L-BFGS from the model's mean answer.

    Args:
        job: Whose loss is used, and whose model shows the shape of an answer.
        pairs: Inputs and targets.
    """
    found = []
    try:
        given = answers(job, pairs[:NUM_PROBED])
        outputs, targets = [o for o, _ in given], [y for _, y in given]
        if not all(isinstance(o, Tensor) and o.is_floating_point() for o in outputs):
            return None
        dims = {outputs[0].ndim - 1, 1} if outputs[0].ndim > 1 else {-1}
        for dim in dims:
            value = _best_constant(job.loss_fn, outputs, targets, dim)
            if value is not None:
                found.append(value)
    except Exception:  # noqa: BLE001 # a loss that takes other answers than this
        return None
    return min(found, default=None)


def _best_constant(
    loss_fn: Callable[..., Tensor], outputs: Sequence[Tensor], targets: Sequence[Any], dim: int
) -> float | None:
    first = outputs[0].float()
    first = first.nan_to_num(0, 0, 0)
    others = [d for d in range(first.ndim) if d != dim]
    start = first.mean(dim=others, keepdim=True) if others else first.mean(0, keepdim=True)
    if dim == -1:
        start = first.mean().reshape(1)
    answer = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([answer], max_iter=60, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        losses = [
            loss_fn(answer.expand(o.shape).contiguous(), y)
            for o, y in zip(outputs, targets, strict=True)
        ]
        return torch.stack([x.float().mean() for x in losses]).mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = evaluate()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        return loss

    with torch.enable_grad():
        began = float(evaluate().detach())
        optimizer.step(closure)  # type: ignore[no-untyped-call] # torch leaves it untyped
        ended = closure()
    slope = float(answer.grad.norm()) if answer.grad is not None else math.inf
    value = float(ended.detach())
    settled = slope <= 1e-2 * (1 + abs(value))
    return value if math.isfinite(value) and settled and value <= began + 1e-6 else None


@dataclass(frozen=True)
class Outcome:
    """How a run went."""

    start: Probe | None
    end: Probe | None
    constant: float | None
    """Loss of the best answer that ignores the input."""
    losses: Sequence[float]
    """Of each call."""

    @property
    def broken(self) -> bool:
        """Whether losses became NaN or infinite."""
        return any(not math.isfinite(v) for v in self.losses) or (
            self.end is not None and not self.end.finite
        )

    @property
    def reference(self) -> float:
        """Loss of a model that knows nothing yet; NaN if it cannot be told."""
        start = math.nan if self.start is None else self.start.loss
        if self.constant is None or abs(self.constant) < TRIVIAL * abs(start):
            return start  # targets that are all the same can be answered without inputs
        return self.constant

    @property
    def learned(self) -> float:
        """Share of the reference that the run took off the loss; NaN if it cannot be told."""
        if self.end is None or self.start is None:
            return math.nan
        if not self.end.finite:
            return -math.inf
        reference = self.reference
        if not math.isfinite(reference):
            return math.nan
        return (reference - self.end.loss) / max(abs(reference), 1e-12)

    @property
    def knows(self) -> float:
        """Share of the reference that answers lose when they are given to other examples."""
        if self.end is None or not self.end.finite or math.isnan(self.end.gap):
            return math.nan
        return self.end.gap / max(abs(self.reference), 1e-12)

    @property
    def is_sound(self) -> bool:
        """Whether the run has learned much, ends at its best, and its loss is no absurd one."""
        return SOUND <= self.learned <= ABSURD and not self.broken and self._ends_at_its_best

    @property
    def _ends_at_its_best(self) -> bool:
        losses = [v for v in self.losses if math.isfinite(v)]
        width = max(1, len(losses) // 10)
        parts = [losses[i : i + width] for i in range(0, len(losses) - width + 1, width)]
        levels = [statistics.median(part) for part in parts]
        if len(levels) < 3:
            return True
        return levels[-1] <= min(levels) + 0.1 * (max(levels[0], levels[1]) - min(levels))

    @property
    def learned_nothing(self) -> bool:
        """Whether the answers are no better than one that ignores the input."""
        knows = 0.0 if math.isnan(self.knows) else self.knows
        stays_bad = self.learned < -0.1 and self.fell < 0.2
        return self.learned < LEARNED and (knows < 2 * LEARNED or stays_bad)

    @property
    def worse(self) -> bool:
        """Whether the run ended well above where it began."""
        if self.end is None or self.start is None or not self.start.finite:
            return False
        level = max(self.start.loss, self.reference)
        return self.end.finite and self.end.loss > level + 0.5 * max(abs(level), 1e-12)

    @property
    def failed_at(self) -> int | None:
        """First call whose loss was not finite, or far above start and reference; None without."""
        if self.start is None:
            return None
        level = max(self.start.loss, self.reference)
        limit = level + 0.5 * abs(level)
        return next((i for i, v in enumerate(self.losses, 1) if not v <= limit), None)

    @property
    def fell(self) -> float:
        """Share of the first loss that the run took off it; NaN if it cannot be told."""
        if self.end is None or self.start is None or not self.start.finite:
            return math.nan
        return (self.start.loss - self.end.loss) / max(abs(self.start.loss), 1e-12)
