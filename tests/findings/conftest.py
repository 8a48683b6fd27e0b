from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest

from trimtab.findings import Evidence, Finding, Fix, Rule, Severity, Symptom, _rule, register


@dataclass(frozen=True, kw_only=True)
class Patient(Rule):
    """Rules that wait."""

    patience: int = 50
    """Steps to wait."""


@dataclass(frozen=True, kw_only=True)
class DeadUnits(Patient):
    """Units are zero on every sample,
    step after step.

    Why: a ReLU that never fires gets no gradient, so training
        cannot revive it.

        It is lost.
    Measured: share of units with `activation.zero_fraction` 1.
    Silent on: sparsity that moves between units.
    Fix: lower the learning rate.
    Source: Lu et al. 2019, arXiv:1903.06733.
    """

    code: ClassVar = "TT201"
    name: ClassVar = "dead-units"
    symptom: ClassVar = Symptom.DEAD_UNITS
    scope: ClassVar = "run"
    leads_to: ClassVar = ("TT3",)
    example: ClassVar = """
        x = 1
        if x:
            y = 2
    """

    max_share: float = 0.1
    """Largest healthy share,
    of | all units."""
    kinds: tuple[str, ...] = ("relu",)
    """Kinds of units."""
    mode: Literal["mean", "worst"] = "mean"
    """How it is joined."""
    limit: float | None = None
    strict: bool = False
    """Whether one unit is enough."""


@dataclass(frozen=True, kw_only=True)
class LossSpike(Rule):
    """The loss jumps.

    Why: it does.
    """

    code: ClassVar = "TT301"
    name: ClassVar = "loss-spike"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.LOSS_SPIKE
    scope: ClassVar = "run"
    rank: ClassVar = 80


@dataclass(frozen=True, kw_only=True)
class NoDocstring(Rule):
    code: ClassVar = "TT001"
    name: ClassVar = "no-docstring"
    severity: ClassVar = Severity.ADVICE
    symptom: ClassVar = Symptom.NO_LEARNING
    scope: ClassVar = "live"
    example: ClassVar = "$ no python"


@dataclass(frozen=True, kw_only=True)
class LoopRule(Rule):
    """A loop is wrong."""

    code: ClassVar = "TT420"
    name: ClassVar = "wrong-loop"
    symptom: ClassVar = Symptom.NO_LEARNING
    scope: ClassVar = "loop"


@dataclass(frozen=True, kw_only=True)
class ClipFirst(Rule):
    """Gradients are clipped before they are unscaled."""

    code: ClassVar = "TT701"
    name: ClassVar = "clip-before-unscale"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    scope: ClassVar = "source"
    rank: ClassVar = 25
    example: ClassVar = "bad()\n"
    good: ClassVar = "good()\n"


@dataclass(frozen=True, kw_only=True)
class Cleared(Rule):
    """Gradients are cleared too early."""

    code: ClassVar = "TT702"
    name: ClassVar = "cleared-early"
    symptom: ClassVar = Symptom.NO_LEARNING
    scope: ClassVar = "source"
    rank: ClassVar = 25


@dataclass(frozen=True, kw_only=True)
class Incident(Rule):
    """A run broke."""

    code: ClassVar = "IN001"
    name: ClassVar = "broken-run"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    scope: ClassVar = "incident"


@dataclass(frozen=True, kw_only=True)
class Audited(Rule):
    """A run does not go on as it was."""

    code: ClassVar = "AU001"
    name: ClassVar = "not-resumed"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    scope: ClassVar = "audit"


ALL = (DeadUnits, LossSpike, NoDocstring, LoopRule, ClipFirst, Cleared)


@pytest.fixture
def registry(monkeypatch):
    """A registry that holds nothing yet."""
    monkeypatch.setattr(_rule, "_REGISTRY", {})
    return _rule._REGISTRY


@pytest.fixture
def rules(registry):
    """A registry that holds rules of most scopes; they are its attributes by name."""
    return SimpleNamespace(**{register(rule).__name__: rule for rule in ALL})


@pytest.fixture
def all_loaded(rules):
    """The same, with every package that registers rules."""
    register(Incident)
    register(Audited)
    return rules


@pytest.fixture
def finding():
    """A finding with all that a finding can have."""
    spike = Finding(
        code="TT301",
        name="loss-spike",
        severity=Severity.ERROR,
        symptom=Symptom.LOSS_SPIKE,
        what="the loss jumped",
        step=1240,
    )
    return Finding(
        code="TT201",
        name="dead-units",
        severity=Severity.WARNING,
        symptom=Symptom.DEAD_UNITS,
        what="212 of 512 units were zero on every sample",
        site="blocks.3.act",
        step=1200,
        evidence=(
            Evidence(name="dead share", value=0.414, normal="<= 0.1"),
            Evidence(name="units", value=65536, normal="any"),
        ),
        cause="no gradient reached them for 50 steps",
        fix="lower this module's learning rate, or use GELU in place of ReLU",
        remedy=Fix(action="scale_learning_rate", args={"factor": 0.1}),
        count=12,
        also=("blocks.4.act", "blocks.5.act"),
        consequences=(spike,),
    )


@pytest.fixture
def source_finding():
    """A finding in a file."""
    return Finding(
        code="TT701",
        name="clip-before-unscale",
        severity=Severity.WARNING,
        symptom=Symptom.SILENT_CONFIG_ERROR,
        what="gradients are clipped before they are unscaled",
        site="train_step",
        file="train loop.py",
        line=12,
        column=5,
        fix="call scaler.unscale_(optimizer) first",
    )
