"""What a case of the corpus is, and the list of all cases."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from trimtab.findings import Symptom

Part = Literal["tune", "report", "fresh", "heldout"]
Step = Callable[[nn.Module, torch.optim.Optimizer, Any, Any, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One training program, ready to run."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[..., Tensor]
    batches: Iterable[Any]
    """Pairs of inputs and targets; iterated again when they run out."""
    scheduler: Any = None
    """Stepped once after each training step, unless `train_step` is given, which does so itself."""
    train_step: Step | None = None
    """The user's own loop body; None for the usual five lines."""
    score: Callable[[nn.Module], float] | None = None
    """Error of a trained model in evaluation mode, 0 the best and about 1 that of a guess."""


Build = Callable[[torch.Generator], Setup]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A program whose verdict is known."""

    name: str
    kind: str
    """Of model or task, such as `"transformer"` or `"regression"`."""
    source: str
    """Where the case is published."""
    build: Build
    part: Part
    """Rules may be tuned on one part; figures are reported from the other."""
    symptoms: frozenset[Symptom] = frozenset()
    """Any one of them is a right answer; empty for a healthy run."""
    causes: frozenset[str] = frozenset()
    """Keys of `faults.causes.CAUSES`: any one of them is a right headline."""
    site: str | None = None
    """Pattern that the place of the first finding has to match; None if there is no one place."""
    ends_in: Literal["divergence", "nan"] | None = None
    """How the run is lost in the end; None also where that comes without a beginning, as with one
    batch that is no number. Only of these is a warning before the damage expected."""
    twin: str | None = None
    """The healthy case that a fault is compared with."""
    silent: bool = False
    """It is a mistake that need not show in the score within the run."""

    @property
    def healthy(self) -> bool:
        """Whether nothing should be found."""
        return not self.symptoms

    def setup(self, seed: int) -> Setup:
        """Build the program; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(1000 + seed)
            return self.build(torch.Generator().manual_seed(seed))


_CASES: Final[dict[str, Case]] = {}


def case(
    name: str,
    *,
    kind: str,
    source: str,
    part: Part,
    symptoms: Iterable[Symptom] = (),
    causes: Iterable[str] = (),
    site: str | None = None,
    ends_in: Literal["divergence", "nan"] | None = None,
    twin: str | None = None,
    silent: bool = False,
) -> Callable[[Build], Build]:
    """Enter a program into the corpus; without symptoms it is a healthy one."""

    def enter(build: Build) -> Build:
        if name in _CASES:
            raise ValueError(f"There are two cases named {name!r}.")
        _CASES[name] = Case(
            name=name,
            kind=kind,
            source=source,
            build=build,
            part=part,
            symptoms=frozenset(symptoms),
            causes=frozenset(causes),
            site=site,
            ends_in=ends_in,
            twin=twin,
            silent=silent,
        )
        return build

    return enter


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    from faults import cases as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"faults.cases.{module.name}")
    return dict(_CASES)


def plain_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Any, x: Any, y: Any
) -> Tensor:
    """The loop body that most programs have."""
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss
