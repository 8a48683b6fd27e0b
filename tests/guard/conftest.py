"""Small guarded runs whose data depend on the number of the step alone."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trimtab import StabilityWarning, Stepper

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "adamw fused": lambda p, lr: torch.optim.AdamW(p, lr=lr, fused=True),
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=10 * lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
}


class Job:
    """A regression run, made anew and the same every time."""

    def __init__(
        self,
        *,
        seed: int = 0,
        norm: bool = False,
        dropout: float = 0.0,
        optimizer: str = "adam",
        lr: float = 0.01,
        schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
        at_once: bool = True,
        guard: Any = "spike",
        **options: Any,
    ) -> None:
        self.seed = seed
        with torch.random.fork_rng():
            torch.random.manual_seed(seed)
            layers = [nn.Linear(8, 32), nn.BatchNorm1d(32) if norm else nn.Identity(), nn.Tanh()]
            self.model = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(32, 1))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters(), lr)
        self.stepper = Stepper(
            self.model,
            self.optimizer,
            schedule="constant" if schedule is None else schedule(self.optimizer),
            guard=guard,
            **options,
        )
        self.stepper._at_once = self.stepper._updater.at_once = at_once
        self.results: list[Any] = []

    @property
    def guard(self) -> Any:
        return self.stepper.guard

    @property
    def incidents(self) -> list[Any]:
        self.stepper.sync()
        return self.guard.incidents

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(1000 * self.seed + step)
        x = torch.randn(64, 8, generator=draw)
        return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(64, 1, generator=draw)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.model(x), y)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        """Give the batch in as many parts as the stepper takes."""
        for a, b in zip(
            x.chunk(self.stepper.accumulate), y.chunk(self.stepper.accumulate), strict=True
        ):
            self.stepper.backward(lambda a=a, b=b: self.loss(a, b), weight=len(a))
            result = self.stepper.step()
        self.results.append(result)
        return result

    def run(
        self,
        first: int,
        last: int,
        bad: Callable[[int, Any, Any], tuple[Any, Any]] = lambda _step, x, y: (x, y),
        before: Callable[[int], None] = lambda _step: None,
        without: tuple[int, ...] = (),
    ) -> "Job":
        """Make the steps `first` to `last`.

        Args:
            bad: Returns the batch of a step, spoilt or not.
            before: Called before each step.
            without: Steps that this run never sees; of them, it only draws what dropout draws.
        """
        for step in range(first, last + 1):
            before(step)
            x, y = bad(step, *self.batch(step))
            if step in without:
                self._draw_only(x)
                continue
            self.step(x, y)
        self.stepper.sync()
        return self

    def _draw_only(self, x: torch.Tensor) -> None:
        buffers = copy.deepcopy(dict(self.model.named_buffers()))
        with torch.no_grad():
            for part in x.chunk(self.stepper.accumulate):
                self.model(part)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def state(self) -> dict[str, Any]:
        """Return all that training depends on, copied; the guard's own memory is not in it."""
        self.stepper.sync()
        schedule, scaler = self.stepper.schedule, self.stepper.scaler
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": None if schedule is None else schedule.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "steps": self.stepper.steps,
                "random": torch.get_rng_state(),
            }
        )


def assert_same(a: Any, b: Any) -> None:
    """Compare nested states bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for mine, theirs in zip(a, b, strict=True):
            assert_same(mine, theirs)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a == b


@pytest.fixture
def make_job() -> type[Job]:
    return Job


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    return assert_same


@pytest.fixture(autouse=True)
def _incidents_may_be_said():
    """Let the guard say what it does in runs that are broken on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"TT\d{3} ", StabilityWarning)
        yield
