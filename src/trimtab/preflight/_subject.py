"""What is judged: model, optimizer, loss and batch, and what was measured of them so far."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from trimtab.checkpoint import seeded
from trimtab.findings import Finding
from trimtab.precision import Precision, autocast
from trimtab.preflight._batch import Batch, LossFunction, call, find_tensors, loss_of, main_output
from trimtab.preflight._first_pass import FirstPass, run_first_pass
from trimtab.preflight._gradients import gradients
from trimtab.preflight._schedule import look_ahead

if TYPE_CHECKING:
    from trimtab.preflight._curvature import Curvature

T = TypeVar("T")


class UnavailableError(Exception):
    """Something that a rule asked for cannot be measured; another rule says why."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user said about the run to come."""

    total_steps: int | None = None
    precision: Precision = "fp32"
    scaler: Any = None
    accumulate: int = 1
    global_batch: int | None = None
    micro_batch: int | None = None
    world_size: int | None = None
    dataset_size: int | None = None
    causal: bool | None = None
    clip: float | None = None
    overfit_s: float = 5.0
    seed: int = 0


class Subject:
    """Live objects before the first step; measurements are made when first asked for.

    Args:
        model: Unwrapped.
        optimizers: None, one or several.
        loss_fn: None if the model computes its loss.
        batch: One batch.
        scheduler: Of the first optimizer.
        settings: About the run to come.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        loss_fn: LossFunction | None,
        batch: Batch,
        *,
        scheduler: Any = None,
        settings: Settings | None = None,
    ) -> None:
        self.model, self.optimizers = model, tuple(optimizers)
        self.loss_fn, self.batch, self.scheduler = loss_fn, batch, scheduler
        self.settings = settings or Settings()
        self.notes: list[str] = []
        self.findings: list[Finding] = []
        self.curvature: Curvature | None = None
        self._measured: dict[Any, Any] = {}

    def once(self, measure: Callable[["Subject"], T]) -> T:
        """Return what a measurement of this subject gives, and make it at most once."""
        if measure not in self._measured:
            self._measured[measure] = measure(self)
        found: T = self._measured[measure]
        return found

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters of the model by name, each once."""
        return dict(self.model.named_parameters())

    @cached_property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Those that require a gradient."""
        return {n: p for n, p in self.parameters.items() if p.requires_grad}

    @property
    def groups(self) -> list[tuple[int, dict[str, Any], torch.optim.Optimizer]]:
        """All param groups with their index and their optimizer."""
        return [(i, g, o) for o in self.optimizers for i, g in enumerate(o.param_groups)]

    @cached_property
    def held(self) -> list[Tensor]:
        """All tensors in param groups, as often as they are in there."""
        return [p for _, group, _ in self.groups for p in group["params"]]

    @property
    def num_parameters(self) -> int:
        """Elements of all parameters."""
        return sum(p.numel() for p in self.parameters.values())

    @cached_property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @cached_property
    def world_size(self) -> int:
        """Processes that train together."""
        if self.settings.world_size is not None:
            return self.settings.world_size
        distributed = torch.distributed
        ready = distributed.is_available() and distributed.is_initialized()
        return distributed.get_world_size() if ready else 1

    @cached_property
    def finite_batch(self) -> bool:
        """Whether every number in the batch is finite."""
        return all(bool(t.isfinite().all()) for t in self.batch.tensors if t.is_floating_point())

    @cached_property
    def first(self) -> FirstPass:
        """One forward and backward pass in the user's own mode and precision."""
        with self._quietly(), seeded(self.settings.seed):
            return run_first_pass(
                self.model, self.loss_fn, self.batch, self._autocast, self.trainable
            )

    @property
    def passed(self) -> FirstPass:
        """The same, if it came to an end.

        Raises:
            UnavailableError: It did not.
        """
        if self.first.error is not None:
            raise UnavailableError
        return self.first

    @property
    def measured(self) -> FirstPass:
        """The same, if what it measured means something: batch and loss are finite.

        Raises:
            UnavailableError: It does not.
        """
        first = self.passed
        if not self.finite_batch or not first.has_gradient:
            raise UnavailableError
        return first

    def rates(self, num: int) -> list[list[float]]:
        """Return the learning rates of the first optimizer's next steps.

        Raises:
            UnavailableError: There is no optimizer, or its schedule cannot be looked at.
        """
        if not self.optimizers:
            raise UnavailableError
        with self._quietly():
            try:
                return look_ahead(self.scheduler, self.optimizers[0], num)
            except RuntimeError as error:
                self.notes.append(f"The schedule could not be looked at: {error}")
                raise UnavailableError from error

    def compute_loss(self, batch: Batch | None = None) -> Tensor:
        """Return the loss of a batch in full precision, with its graph and fixed randomness."""
        batch = batch or self.batch
        with self._quietly(), seeded(self.settings.seed), torch.enable_grad():
            return loss_of(call(self.model, batch.inputs), batch.target, self.loss_fn)

    def compute_gradients(self, batch: Batch | None = None) -> tuple[Tensor, list[Tensor | None]]:
        """Return the loss of a batch and the gradient of each trainable parameter."""
        loss = self.compute_loss(batch)
        with self._quietly():
            return loss.detach(), gradients(loss, list(self.trainable.values()))

    @torch.no_grad()
    def compute_output(self, inputs: Any) -> Tensor | None:
        """Return the model's main output, with fixed randomness and without a graph."""
        with self._quietly(), seeded(self.settings.seed):
            return main_output(call(self.model, inputs))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run the model in eval mode inside."""
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def deadline(self) -> Callable[[], bool]:
        """Start a clock; the returned function tells whether the time for a trial is over."""
        ends = time.monotonic() + self.settings.overfit_s
        return lambda: time.monotonic() > ends

    def _autocast(self) -> Any:
        kinds = {t.device.type for t in find_tensors(self.batch.inputs)}
        kind = self.device.type if next(self.model.parameters(), None) is not None else kinds.pop()
        return autocast(kind, self.settings.precision)

    @staticmethod
    @contextmanager
    def _quietly() -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
