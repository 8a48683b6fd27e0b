"""audit_accumulation: one batch against the same batch in micro-batches."""

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.audit._audit import Audit, allowed
from trimtab.audit._audit_rule import AccumulationRule
from trimtab.audit._gradients import (
    WeightedSum,
    as_weighted_sum,
    condition,
    gradient_of,
    own_gradients,
    relative_error,
    without_dropout,
)
from trimtab.audit._known import known_faults
from trimtab.audit._micro_batches import (
    chunk_sizes,
    cut,
    equal_sizes,
    growing_sizes,
    join,
    num_examples,
)
from trimtab.audit._random import random_fingerprints
from trimtab.audit._resume import Build
from trimtab.audit._split import SplitBatch
from trimtab.checkpoint import seeded
from trimtab.diagnosis._batches import Batches, Pair, call_model
from trimtab.engine import Stepper, TrainingSetup
from trimtab.errors import ConfigError, StabilityWarning, StateError
from trimtab.findings import Finding, Selection, merge

Accumulate = Callable[[TrainingSetup, list[Pair]], Any]
"""Makes one optimizer step of several micro-batches."""

QUIET: Final = 2.0**-10
"""Factor of the loss at which no usual clipping acts; a power of two rounds nothing."""
LOUD: Final = 2.0**10
"""Factor at which clipping acts for certain."""
NUM_JOINED: Final = 16
"""Batches that are joined to one that is large enough, at the most."""


def audit_accumulation(
    build: Build,
    *,
    accumulate: Accumulate | None = None,
    micro_batches: int = 4,
    seed: int = 0,
    selection: Selection | None = None,
) -> Audit:
    """Make one step of a batch in micro-batches, and name how its gradient differs from the whole.

    The gradient that the optimizer gets is taken apart, by least squares in float64, into those of
    the micro-batches: their weights tell what was done to them. Equal and unequal sizes are tried,
    in eval mode, so that dropout does not blur it, with a small and a large loss, so that clipping
    shows, and a second time, so that gradients that were left over show. What BatchNorm does to
    small batches is measured apart, in training mode.

    Args:
        build: From a seed to a fresh `TrainingSetup`. `loss_fn` is called on each micro-batch;
            the whole batch's gradient is that of `loss_fn` over all of it.
        accumulate: Your own code: `accumulate(setup, micro_batches)` makes one optimizer step of a
            list of pairs. Default: the setup's `train_step`, once for each micro-batch or, if it
            steps each time, once for the whole batch; without one, `trimtab.Stepper`, weighted by
            examples.
        micro_batches: How many.
        seed: Of the weights and the batch; random states are put back afterwards.
        selection: Which rules speak, and with which thresholds.

    Returns:
        Findings, most causal first; none if the two gradients are equal but for rounding. The facts
        hold the rounding error that was measured and the tolerance that follows.

    Raises:
        ConfigError: An argument cannot work, or the batches are too small.
        StateError: The micro-batches did not end in one optimizer step.

    Examples:
        >>> def build(seed):
        ...     model = torch.nn.Linear(8, 3)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     batches = [(torch.randn(32, 8), torch.randn(32, 3))]
        ...     return TrainingSetup(model, optimizer, torch.nn.MSELoss(), batches)
        >>> audit_accumulation(build).ok
        True
        >>> def undivided(setup, micro_batches):
        ...     setup.optimizer.zero_grad()
        ...     for x, y in micro_batches:
        ...         setup.loss_fn(setup.model(x), y).backward()
        ...     setup.optimizer.step()
        >>> [f.name for f in audit_accumulation(build, accumulate=undivided).findings]
        ['accumulation-not-divided']
    """
    _check(build, accumulate, micro_batches)
    with seeded(seed):
        bench = _Bench(build, accumulate, micro_batches, seed)
        splits = [bench.measure(sizes) for sizes in bench.sizes()]
    chosen = selection or Selection()
    every = replace(chosen, select=(), ignore=())
    rules = [r for r in every.rules("audit") if isinstance(r, AccumulationRule)]
    found: dict[str, Finding] = {}
    for split in splits:
        for finding in [f for rule in rules for f in rule.check(split)] + list(known_faults(split)):
            found.setdefault(finding.code, finding)
    facts = {
        "micro-batches": " and ".join("+".join(map(str, s.sizes)) for s in splits),
        "rounding error of a gradient": f"{max(s.noise for s in splits):.1e}",
        "tolerance of a weight": f"{max(s.tolerance for s in splits):.1e}",
    }
    return Audit(
        subject="accumulation", findings=allowed(merge(found.values()), chosen), facts=facts
    )


@dataclass
class _Seen:
    """What the optimizer got in one window, or more."""

    gradients: list[Tensor]
    before: list[dict[str, Tensor]]
    """The model before each window."""
    scaled: bool
    """Whether the loss function was used, so that its factor counts."""


class _Bench:
    """Sets up the same step again and again, each time on fresh objects."""

    def __init__(self, build: Build, accumulate: Accumulate | None, num: int, seed: int) -> None:
        self.build, self.num, self.seed = build, num, seed
        setup = self._built()
        self.first: Final = setup
        self.start: Final = copy.deepcopy(setup.model.state_dict())
        if isinstance(setup.optimizer, torch.optim.LBFGS):
            raise ConfigError(
                "LBFGS calls its closure several times a step, so that its accumulation cannot be "
                "audited. Audit the loop with SGD in its place."
            )
        self.batch: Final = self._batch(setup)
        self.inside: Final = accumulate is None and self._steps_each_time()
        self.accumulate: Final = accumulate or self._usual()

    def sizes(self) -> list[tuple[int, ...]]:
        """Return the ways to cut the batch: into equal parts, and into unequal ones."""
        total = num_examples(self.batch) // self.num * self.num
        if self.inside:  # cut by the loop body itself, most likely by chunk()
            fewer = total - self.num + 1  # the last chunk is smaller by as many
            return [equal_sizes(total, self.num), chunk_sizes(fewer, self.num)]
        return [equal_sizes(total, self.num), growing_sizes(total, self.num)]

    def measure(self, sizes: Sequence[int]) -> SplitBatch:
        """Return what one way to cut the batch does to the gradient.

        Raises:
            ConfigError: The gradients of the micro-batches cannot be told apart.
        """
        parts = cut(self.batch, sizes)
        whole = cut(self.batch, [sum(sizes)])[0]
        model, loss_fn = self.first.model, self.first.loss_fn
        with _evaluating(model):
            exact = _dtype(model, loss_fn, parts[0])
            each = [gradient_of(model, loss_fn, part, exact) for part in parts]
            total = gradient_of(model, loss_fn, whole, exact)
            noise = relative_error(gradient_of(model, loss_fn, whole), total)
        known = as_weighted_sum(total, each)
        blur = condition(each)
        if not blur < 1e5:  # beyond, float32's seven digits leave nothing of a weight
            raise ConfigError(
                f"The gradients of the {len(sizes)} micro-batches are too alike to be told apart "
                f"(condition {blur:.1e}). Audit with fewer micro_batches, other data or a larger "
                "model."
            )
        quiet = self._observe(parts, whole, QUIET, windows=2)
        loud = self._observe(parts, whole, LOUD)
        got = as_weighted_sum(quiet.gradients[0], each)
        clipped = as_weighted_sum(loud.gradients[0], each)
        weights, normalised = got.weights, _normalised(quiet, loud)
        if normalised:  # whatever the loss: only the shares can be judged
            weights = weights * float(known.weights.sum() / weights.sum())
        return SplitBatch(
            sizes=sizes,
            right=known.weights,
            right_error=known.error,
            got=weights,
            got_error=got.error,
            noise=noise,
            condition=blur,
            loud=clipped.weights if loud.scaled and clipped.error < 0.01 else None,
            left_over=None if normalised else self._left_over(quiet, parts, exact, got),
            mixing=self._mixing(parts, whole, known.weights, exact),
            norms=_norms(model),
        )

    def _left_over(
        self, seen: _Seen, parts: Sequence[Pair], dtype: torch.dtype | None, got: WeightedSum
    ) -> float | None:
        """Return the first window's weight in the second's gradient; None if not to be told."""
        model = copy.deepcopy(self.first.model)
        model.load_state_dict(seen.before[1])
        with _evaluating(model):
            each = [gradient_of(model, self.first.loss_fn, part, dtype) for part in parts]
        earlier = seen.gradients[0]
        alone = as_weighted_sum(seen.gradients[1], each)
        if alone.error < 0.01:  # the step was so small that the earlier one looks the same
            return float(alone.weights.sum() / got.weights.sum()) - 1
        both = as_weighted_sum(seen.gradients[1], [*each, earlier])
        return float(both.weights[-1]) if both.error < 0.01 else None

    def _mixing(
        self, parts: Sequence[Pair], whole: Pair, weights: Tensor, dtype: torch.dtype | None
    ) -> float | None:
        """Return how far the two gradients are apart in training mode; None if that is random."""
        model, loss_fn = without_dropout(self.first.model).train(), self.first.loss_fn
        before = random_fingerprints()
        try:
            total = gradient_of(model, loss_fn, whole, dtype)
            each = [gradient_of(model, loss_fn, part, dtype) for part in parts]
        except ValueError:  # BatchNorm on a single example
            return None
        if random_fingerprints() != before:
            return None
        together = torch.stack(each, dim=1) @ weights
        return relative_error(together, total)

    def _observe(
        self, parts: Sequence[Pair], whole: Pair, factor: float, windows: int = 1
    ) -> _Seen:
        """Let the user's code make steps, and take the gradients that its optimizer gets.

        Raises:
            StateError: It made none, or several.
        """
        setup = self._built()
        setup.model.load_state_dict(self.start)
        called: list[None] = []
        setup.loss_fn = _times(setup.loss_fn, factor, called)
        params = list(setup.model.parameters())
        taken: list[Tensor] = []
        hook = setup.optimizer.register_step_pre_hook(
            lambda optimizer, *_: taken.append(own_gradients(optimizer, params))
        )
        seen = _Seen(gradients=[], before=[], scaled=False)
        try:
            with _evaluating(setup.model), warnings.catch_warnings():
                warnings.simplefilter("ignore", StabilityWarning)
                for _ in range(windows):
                    taken.clear()
                    seen.before.append(copy.deepcopy(setup.model.state_dict()))
                    self.accumulate(setup, [whole] if self.inside else list(parts))
                    if len(taken) != 1:
                        raise StateError(
                            f"{len(parts)} micro-batches ended in {len(taken)} optimizer steps "
                            "and have to end in one. Pass micro_batches= as your code counts "
                            "them, or accumulate= with the code that makes one step."
                        )
                    seen.gradients.append(taken[0])
        finally:
            hook.remove()
        seen.scaled = bool(called)
        if seen.scaled:
            seen.gradients = [g / factor for g in seen.gradients]
        return seen

    def _built(self) -> TrainingSetup:
        """Return a fresh setup.

        Raises:
            ConfigError: The build function returned something else.
        """
        with seeded(self.seed):
            setup = self.build(self.seed)
        if not isinstance(setup, TrainingSetup):
            raise ConfigError(
                "build(seed) must return a trimtab.engine.TrainingSetup, got "
                f"{type(setup).__name__}."
            )
        return setup

    def _batch(self, setup: TrainingSetup) -> Pair:
        """Return a batch that is large enough to be cut into unequal parts of two or more.

        Raises:
            ConfigError: There are too few examples.
        """
        wanted, pairs = self.num * (self.num + 1), []
        given = list(itertools.islice(setup.batches, NUM_JOINED))
        for pair in Batches(given).take(len(given)):
            pairs.append(pair)
            if sum(map(num_examples, pairs)) >= wanted:
                break
        total = sum(map(num_examples, pairs))
        if total < wanted:
            raise ConfigError(
                f"The first {len(pairs)} batches have {total} examples together, and "
                f"{self.num} unequal micro-batches need {wanted}. Audit with fewer micro_batches."
            )
        return join(pairs)

    def _steps_each_time(self) -> bool:
        """Tell whether the setup's own loop body makes a step at its first call."""
        setup = self._built()
        if setup.train_step is None:
            return False
        steps: list[None] = []
        hook = setup.optimizer.register_step_post_hook(lambda *_: steps.append(None))
        total = num_examples(self.batch) // self.num * self.num
        x, y = cut(self.batch, [total])[0]
        try:
            setup.train_step(setup.model, setup.optimizer, setup.loss_fn, x, y)
        finally:
            hook.remove()
        return bool(steps)

    def _usual(self) -> Accumulate:
        return _by_stepper if self.first.train_step is None else _by_loop_body


def _by_loop_body(setup: TrainingSetup, micro_batches: Sequence[Pair]) -> None:
    assert setup.train_step is not None
    for x, y in micro_batches:
        setup.train_step(setup.model, setup.optimizer, setup.loss_fn, x, y)


def _by_stepper(setup: TrainingSetup, micro_batches: Sequence[Pair]) -> None:
    stepper = Stepper(
        setup.model,
        setup.optimizer,
        clip=None,
        accumulate=len(micro_batches),
        schedule="constant",
    )
    for pair in micro_batches:
        loss = setup.loss_fn(call_model(setup.model, pair[0]), pair[1])
        stepper.backward(loss, weight=num_examples(pair))
        stepper.step()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Keep a model in eval mode, whatever is asked of it."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    vars(model)["train"] = lambda _mode=True: model
    try:
        yield
    finally:
        del vars(model)["train"]
        for module, mode in modes:
            module.training = mode


def _times(
    loss_fn: Callable[..., Tensor], factor: float, called: list[None]
) -> Callable[..., Tensor]:
    def scaled(*args: Any, **kwargs: Any) -> Tensor:
        called.append(None)
        return loss_fn(*args, **kwargs) * factor

    return scaled


def _dtype(model: nn.Module, loss_fn: Callable[..., Tensor], pair: Pair) -> torch.dtype | None:
    """Return float64 if the model runs in it, else None for its own precision."""
    try:
        gradient_of(model, loss_fn, pair, torch.float64)
    except Exception:  # noqa: BLE001 # of the user's model, which may insist on its own precision
        return None
    return torch.float64


def _normalised(quiet: _Seen, loud: _Seen) -> bool:
    """Tell whether gradients come out the same whatever the loss is multiplied by."""
    if not (quiet.scaled and loud.scaled):
        return False
    small, large = (float(s.gradients[0].norm()) for s in (quiet, loud))
    return small > 0 and large / small < (QUIET / LOUD) * 4


def _norms(model: nn.Module) -> list[str]:
    kinds = nn.modules.batchnorm._BatchNorm
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def _check(build: object, accumulate: object, micro_batches: object) -> None:
    """Refuse arguments that cannot work.

    Raises:
        ConfigError: One cannot.
    """
    for name, value in (("build", build), ("accumulate", accumulate)):
        if not callable(value) and not (value is None and name == "accumulate"):
            raise ConfigError(f"{name} must be a function, got {type(value).__name__}.")
    if isinstance(micro_batches, bool) or not isinstance(micro_batches, int) or micro_batches < 2:
        raise ConfigError(
            f"micro_batches must be a whole number of at least 2, got {micro_batches!r}."
        )
