"""What a judge says of a run, and whether that is right."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

import torch

from faults.causes import CAUSES
from faults.registry import Case, Setup, plain_step

FACTOR: Final = 3.0
"""A loss above so many times what it had reached, and never back below, is damage."""

WINDOW: Final = 10
"""Steps whose median is a level of the loss: so many that one lucky batch is none."""


@dataclass
class Said:
    """One finding of any judge."""

    name: str
    causes: list[str]
    """Keys of `CAUSES` that it names."""
    place: str
    step: int | None
    """When it could have been seen in the run, from 0 for before it; None if only afterwards."""
    message: str
    code: str = ""


@dataclass
class Verdict:
    """All that one judge says of one run."""

    symptoms: list[str] = field(default_factory=list)
    findings: list[Said] = field(default_factory=list)
    """Headline first."""
    seconds: float = 0.0
    error: str | None = None

    @property
    def alarmed(self) -> bool:
        """Whether anything is said to be wrong."""
        return bool(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Verdict":
        """Return what `to_dict` was called on."""
        return cls(**(data | {"findings": [Said(**f) for f in data["findings"]]}))


@dataclass
class Marks:
    """How right a verdict is; None where the question does not arise."""

    symptom: bool | None = None
    headline: bool | None = None
    """Whether the first finding's name is that of a true cause."""
    words: bool | None = None
    """Whether the first finding's message has the words that explain it."""
    named: bool | None = None
    """Whether any finding has the name of a true cause."""
    place: bool | None = None
    false_alarm: bool | None = None
    damage_step: int | None = None
    warned_step: int | None = None
    early: bool | None = None


def mark(case: Case, verdict: Verdict, damage: int | None) -> Marks:
    """Compare a verdict with what is known of a case."""
    if case.healthy:
        return Marks(false_alarm=verdict.alarmed)
    wanted = {str(s) for s in case.symptoms}
    first = verdict.findings[0] if verdict.findings else None
    steps = [f.step for f in verdict.findings if f.step is not None]
    warned = min(steps, default=None)
    return Marks(
        symptom=bool(wanted & set(verdict.symptoms)),
        headline=first is not None and _names(first, case),
        words=first is not None and _explains(first, case),
        named=any(_names(f, case) for f in verdict.findings),
        place=None if case.site is None else first is not None and _is_at(first, case.site),
        damage_step=damage,
        warned_step=warned,
        early=None if damage is None else warned is not None and warned < damage,
    )


def _names(said: Said, case: Case) -> bool:
    return bool(set(said.causes) & case.causes)


def _explains(said: Said, case: Case) -> bool:
    return any(re.search(CAUSES[c].words, said.message, re.IGNORECASE) for c in case.causes)


def _is_at(said: Said, site: str) -> bool:
    return re.search(site, said.place) is not None


def causes_named(name: str) -> list[str]:
    """Return the keys of the causes that a finding's name means."""
    return [key for key, cause in CAUSES.items() if name in cause.names]


def damage_step(losses: Sequence[float]) -> int | None:
    """Return the first step, from 1, from which on the loss is lost; None if it is not.

    That is where it stops being finite, or rises above `FACTOR` times the lowest level that it had
    reached, and never comes back. A level is the median of `WINDOW` steps.
    """
    best, lost, limit = math.inf, None, math.inf
    for step, loss in enumerate(losses, 1):
        recent = losses[max(0, step - 1 - WINDOW) : step - 1]
        if lost is None and recent and all(map(math.isfinite, recent)):
            best = min(best, abs(median(recent)))
            limit = FACTOR * best
        if math.isfinite(loss) and loss <= limit:
            lost = None
        elif lost is None:
            lost = step
    return lost


def train(setup: Setup, *, steps: int, seed: int) -> list[float]:
    """Run a program as its author would, and return its losses."""
    step = setup.train_step or plain_step
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        while len(losses) < steps:
            for x, y in setup.batches:
                loss = step(setup.model, setup.optimizer, setup.loss_fn, x, y)
                losses.append(float(loss))
                if setup.scheduler is not None and setup.train_step is None:
                    setup.scheduler.step()
                if len(losses) >= steps:
                    break
    return losses
