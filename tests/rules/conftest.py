"""Histories made by hand, and small real runs that are judged while they go on."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trimtab
from trimtab.engine import Trim
from trimtab.findings import Finding, Rule
from trimtab.rules import History, Judge, describe_setup
from trimtab.signals import StepRecord

Signals = Mapping[str, Mapping[str, Any]]
MakeHistory = Callable[..., History]
Train = Callable[..., list[Finding]]


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    """Let global random state begin alike in each test, and give it back."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        yield


@pytest.fixture
def make_history() -> MakeHistory:
    """Build a history of `steps` steps with a record every `every` steps and at the first.

    A value of `values` is one number for all steps, or one for each; one of `parameters` and
    `modules`, by signal and site, is one number for all records, or one for each. What is known of
    the run is that an optimizer of this kind trains this model.
    """

    def make(
        steps: int,
        values: Mapping[str, Any] | None = None,
        *,
        every: int = 10,
        parameters: Signals | None = None,
        modules: Signals | None = None,
        model: nn.Module | None = None,
        kind: type[torch.optim.Optimizer] = torch.optim.SGD,
        order: Sequence[str] = (),
    ) -> History:
        history = History()
        if model is not None:
            history = History(describe_setup(model, [kind(model.parameters(), lr=0.1)]))
        history.order = list(order)
        recorded = [s for s in range(1, steps + 1) if s == 1 or s % every == 0]
        for step in range(1, steps + 1):
            now = {k: _at(v, step - 1) for k, v in (values or {}).items()}
            record = StepRecord(step, now)
            if step in recorded:
                at = recorded.index(step)
                for name, signals in (("parameters", parameters), ("modules", modules)):
                    if signals:
                        record.tables[name] = _table(signals, at)
            history.add(record)
        return history

    return make


def _at(value: Any, index: int) -> float:
    return float(value) if np.ndim(value) == 0 else float(value[index])


def _table(signals: Signals, at: int) -> tuple[list[str], dict[str, np.ndarray]]:
    sites = list(dict.fromkeys(site for each in signals.values() for site in each))
    columns = {
        name: np.array([_at(each.get(site, np.nan), at) for site in sites])
        for name, each in signals.items()
    }
    return sites, columns


@pytest.fixture
def train() -> Train:
    """Train a model for some steps and return what these rules find, as it was found.

    `loss_of(step)` makes the loss. Without `clear`, gradients are never set to zero.
    """

    def run(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_of: Callable[[int], torch.Tensor],
        *rules: Rule,
        steps: int = 80,
        watch: int = 2,
        clip: float | None = None,
        clear: bool = True,
    ) -> list[Finding]:
        judge = Judge(describe_setup(model, [optimizer]), rules=rules)
        with trimtab.attach(
            model,
            optimizer,
            clip=clip,
            guard="nonfinite",  # more would mend what is to be found
            out=None,
            watch=watch,
            judge=False,
        ) as trim:
            follow(trim, judge)
            for step in range(steps):
                if clear:
                    optimizer.zero_grad()
                trim.loss(loss_of(step)).backward()
                optimizer.step()
        return judge.all_findings

    return run


def follow(trim: Trim, judge: Judge) -> None:
    """Let a judge see all that is measured from now on."""

    def see(record: StepRecord) -> None:
        judge.history.order = trim.recorder.taps.order
        judge.see(record)

    trim.recorder.sinks.append(see)


@pytest.fixture
def codes_of() -> Callable[[str], set[str]]:
    """Run a program such as a rule's example, and return the codes of all that it finds."""

    def run(program: str) -> set[str]:
        namespace: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are faulty on purpose
            exec(program, namespace)
        return set(_codes(namespace["findings"]))

    return run


def _codes(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield finding.code
        yield from _codes(finding.consequences)


@pytest.fixture(autouse=True)
def _findings_may_be_said():
    """Let the guard say what it leaves out of runs that are broken on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"TT\d{3} ", trimtab.StabilityWarning)
        yield
