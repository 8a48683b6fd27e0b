"""The bases of the rules that audits ask, and what their messages share."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.audit._comparison import Comparison
from trimtab.audit._snapshot import Difference
from trimtab.audit._split import SplitBatch
from trimtab.findings import Evidence, Finding, Rule, Scope, Severity, Symptom

NUM_NAMED = 3
"""Values that a message names; of more, it says how many there are."""


@dataclass(frozen=True, kw_only=True)
class ResumeRule(Rule):
    """Judges how a resumed run differs from one that was not interrupted."""

    scope: ClassVar[Scope] = "audit"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 20

    @abstractmethod
    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield what was not brought back."""


@dataclass(frozen=True, kw_only=True)
class AccumulationRule(Rule):
    """Judges how micro-batches differ from the whole batch."""

    scope: ClassVar[Scope] = "audit"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 20

    @abstractmethod
    def check(self, split: SplitBatch) -> Iterator[Finding]:
        """Yield what is not as with the whole batch."""


def num_evidence(name: str, found: Sequence[Difference]) -> Evidence:
    """Return how many values differ, beside the none that should."""
    return Evidence(name=name, value=len(found), normal="0")


def largest_change(found: Sequence[Difference]) -> float:
    """Return the largest relative difference among tensors; infinity where one is missing."""
    return max((_change(d) for d in found), default=0.0)


def named(names: Sequence[str]) -> str:
    """Return the first names in words, and how many more there are."""
    shown = ", ".join(names[:NUM_NAMED])
    return shown if len(names) <= NUM_NAMED else f"{shown} and {len(names) - NUM_NAMED} more"


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    if value is None:
        return "missing"
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else f"a tensor of {tuple(value.shape)}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _change(difference: Difference) -> float:
    before, after = difference.before, difference.after
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)):
        return float("inf")
    if before.shape != after.shape or before.dtype == torch.bool:
        return float("inf")
    norm = float(before.double().norm())
    apart = float((after.double() - before.double()).norm())
    return apart / norm if norm else float("inf")


def resume_example(save: str, load: str, *, model: str = "", batches: str = "") -> str:
    """Return a program that audits a pair of functions, for the catalogue.

    Args:
        save: Body of the function that returns the state.
        load: Body of the function that takes it up.
        model: Layers that are put in the middle.
        batches: Expression for the batches; default a list.
    """
    middle = f"{model}, " if model else ""
    batches = batches or "[(x, x.sum(1, keepdim=True)) for x in torch.randn(1, 16, 8)]"
    return f"""\
import torch
from trimtab.audit import audit_resume
from trimtab.engine import TrainingSetup

data = {batches}


def build(seed):
    torch.random.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), {middle}torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=20)
    return TrainingSetup(model, optimizer, torch.nn.MSELoss(), data, scheduler)


def save(setup):
{save.strip(chr(10))}


def load(setup, state):
{load.strip(chr(10))}


findings = audit_resume(build, save=save, load=load).findings
"""


def accumulation_example(body: str, *, model: str = "torch.nn.Tanh()") -> str:
    """Return a program that audits an accumulating function, for the catalogue.

    Args:
        body: Of the function that makes one optimizer step of several micro-batches.
        model: The layer in the middle.
    """
    return f"""\
import torch
from trimtab.audit import audit_accumulation
from trimtab.engine import TrainingSetup


def build(seed):
    torch.random.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), {model}, torch.nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(3, 32, 8)]
    return TrainingSetup(model, optimizer, torch.nn.MSELoss(), batches)


def accumulate(setup, micro_batches):
    model, optimizer, loss_fn = setup.model, setup.optimizer, setup.loss_fn
{body.strip(chr(10))}


findings = audit_accumulation(build, accumulate=accumulate).findings
"""
