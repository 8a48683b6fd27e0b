"""What a trial has proven, as a finding."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trimtab.diagnosis._outcome import Outcome
from trimtab.diagnosis._trials import Trial
from trimtab.diagnosis.tt411_learning_rate_too_high import LearningRateTooHigh
from trimtab.diagnosis.tt412_learning_rate_too_low import LearningRateTooLow
from trimtab.diagnosis.tt433_mostly_frozen import MostlyFrozen
from trimtab.findings import Evidence, Finding, Fix, Symptom, find_rule

HEALED: Final = 0.05
"""Share of the loss that a trial has to take off to count as sound."""


@dataclass(frozen=True)
class _Proof:
    """What it means that a change has healed a run."""

    rule: str
    """Code."""
    change: str
    """In words, as the run went with it."""
    cause: str
    fix: str
    remedy: Fix
    site: str = ""


_PROOFS: Final[Mapping[str, _Proof]] = {
    "frozen": _Proof(
        "TT433",
        " with most parameters frozen; with all of them trained",
        "requires_grad is False for most parameters, and they hold nothing that was learned",
        "call model.requires_grad_(True), and build the optimizer afterwards",
        Fix(action="unfreeze"),
    ),
    "inputs": _Proof(
        "TT505",
        "; on inputs of mean 0 and standard deviation 1",
        "the inputs are not normalised",
        "normalise each input feature to mean 0 and standard deviation 1",
        Fix(action="normalise_inputs"),
        site="input",
    ),
    "initialisation": _Proof(
        "TT006",
        "; from fresh initial weights",
        "the initial weights do not suit the layers and activations they feed",
        "initialise with trimtab.init.auto_(model), or leave torch's default in place",
        Fix(action="reinitialise", args={"scheme": "auto"}),
    ),
    "decay": _Proof(
        "TT417",
        "; without weight decay",
        "the weight decay is stronger than the gradient",
        "lower weight_decay to 0.1 or less (AdamW), 1e-3 or less (SGD)",
        Fix(action="set_weight_decay", args={"value": 0.0}),
    ),
    "dropout": _Proof(
        "TT436",
        "; with less dropout",
        "dropout drops most of the signal (p is the share that is dropped, not kept)",
        "lower the dropout to 0.1 to 0.5",
        Fix(action="set_dropout", args={"p": 0.1}),
    ),
    "optimizer": _Proof(
        "TT431",
        "; with the optimizer's usual momentum, betas and epsilon",
        "momentum, betas or epsilon are far from any in common use",
        "use the optimizer's default settings",
        Fix(action="usual_settings"),
    ),
}


def finding_of(trial: Trial, base: Outcome) -> Finding:
    """Return the finding that a trial proves by having healed a run.

    Args:
        trial: The change, and how it went.
        base: How the run itself went.
    """
    if trial.kind == "lr":
        return _rate_finding(trial, base)
    proof = _PROOFS[trial.kind]
    how, symptom = failure(base)
    if symptom is Symptom.OSCILLATING_LOSS:  # of a run that learns, if less than it could
        symptom = Symptom.SLOW_CONVERGENCE
    return find_rule(proof.rule)().finding(
        what=f"the run {how}{proof.change} it took {trial.learned:.0%} off the loss",
        site=proof.site,
        evidence=_evidence(trial, base),
        cause=proof.cause,
        fix=proof.fix,
        remedy=proof.remedy,
        symptom=symptom,
    )


def frozen_finding(share: float, base: Outcome) -> Finding:
    """Return the finding for a run that learns nothing, and of which hardly anything can.

    Args:
        share: Of the model's elements that are frozen.
        base: How the run went.
    """
    proof = _PROOFS["frozen"]
    how, symptom = failure(base)
    return MostlyFrozen().finding(
        what=f"the run {how} with {share:.0%} of its parameters frozen",
        evidence=(Evidence(name="share of parameters that are frozen", value=share,
                           normal="<= 0.9, unless what is frozen was trained before"),),
        cause=proof.cause,
        fix=proof.fix,
        remedy=proof.remedy,
        symptom=symptom,
    )  # fmt: skip


def failure(base: Outcome) -> tuple[str, Symptom]:
    """Return in words, and as a symptom, how a run failed."""
    if base.broken:
        return "ended in NaN", Symptom.NAN
    if base.worse:
        return "ended above where it began", Symptom.DIVERGENCE
    if base.learned_nothing:
        return "learned nothing", Symptom.NO_LEARNING
    return f"took only {base.learned:.0%} off the loss", Symptom.OSCILLATING_LOSS


def _evidence(trial: Trial, base: Outcome) -> tuple[Evidence, ...]:
    own = base.learned if math.isfinite(base.learned) else "none: it broke"
    return (
        Evidence(name="share of the loss taken off by this run", value=own, normal=f">= {HEALED}"),
        Evidence(
            name=f"by the same run with {trial.name}",
            value=trial.learned,
            normal="no better than the run itself",
        ),
    )


def _rate_finding(trial: Trial, base: Outcome) -> Finding:
    how, symptom = failure(base)
    high, factor = trial.factor < 1, trial.factor
    if not high and symptom is not Symptom.NO_LEARNING:
        symptom = Symptom.SLOW_CONVERGENCE
    times = f"{1 / factor:g} times too high" if high else f"{factor:g} times too low"
    return (LearningRateTooHigh() if high else LearningRateTooLow()).finding(
        what=f"the run {how}; with {factor:g} times its learning rate it took "
        f"{trial.learned:.0%} off the loss in {len(trial.outcome.losses)} steps",
        evidence=_evidence(trial, base),
        cause=f"the learning rate is about {times}",
        fix=f"multiply the learning rate by {factor:g}" + (", or warm it up" if high else ""),
        remedy=Fix(action="scale_learning_rate", args={"factor": factor}),
        symptom=symptom,
    )
