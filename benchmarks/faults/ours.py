"""What trimtab says of a program of the corpus."""

import time
import warnings

from faults.registry import Case
from faults.verdict import Said, Verdict, causes_named
from trimtab.diagnosis import diagnose
from trimtab.findings import Finding, registered


def judge(case: Case, seed: int, *, steps: int = 200) -> Verdict:
    """Diagnose one program."""
    setup = case.setup(seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diagnosis = diagnose(
            setup.model,
            setup.optimizer,
            setup.loss_fn,
            setup.batches,
            steps=steps,
            scheduler=setup.scheduler,
            train_step=setup.train_step,
            seed=seed,
        )
    return Verdict(
        symptoms=sorted(diagnosis.symptoms),
        findings=[said(f) for f in diagnosis.findings],
        seconds=time.perf_counter() - began,
    )


def said(finding: Finding) -> Said:
    """Put a finding of trimtab into the words that all judges share."""
    return Said(
        name=finding.name,
        code=finding.code,
        causes=causes_named(finding.name),
        place=" ".join([finding.site or finding.place, *finding.also]),
        step=_seen(finding),
        message=finding.message,
    )


def _seen(finding: Finding) -> int | None:
    """Return the first step at which it, or what followed from it, could be seen in the run."""
    rule = registered().get(finding.code)
    steps = [_seen(f) for f in finding.consequences]
    if rule is not None and rule.scope == "live":
        steps.append(0)
    elif rule is None or rule.scope in {"run", "loop"}:
        steps.append(finding.step)
    return min((s for s in steps if s is not None), default=None)
