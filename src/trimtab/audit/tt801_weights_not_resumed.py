"""TT801 weights-not-resumed: parameters are not those that were saved."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import (
    ResumeRule,
    largest_change,
    named,
    num_evidence,
    resume_example,
)
from trimtab.audit._comparison import Comparison
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class WeightsNotResumed(ResumeRule):
    """Parameters of the model are not those that were saved.

    Why: what they had learned is lost. It happens to layers whose names changed, with
        `strict=False`, to a wrapped or compiled model whose names have a prefix, to weights that
        were rounded on the way, and where only a part of the model is saved.

    Measured: every parameter right after loading, into a model that was filled with noise, is
        compared bit for bit with the one that was saved.

    Fix: save `model.state_dict()` in full precision, and load it with `strict=True`.
    """

    code: ClassVar = "TT801"
    name: ClassVar = "weights-not-resumed"
    example: ClassVar = resume_example(
        """
    return {"optimizer": setup.optimizer.state_dict(), "schedule": setup.scheduler.state_dict()}
""",
        """
    setup.optimizer.load_state_dict(state["optimizer"])
    setup.scheduler.load_state_dict(state["schedule"])
""",
    )

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if parameters differ."""
        found = runs.changed.get("weights", [])
        if not found:
            return
        change = largest_change(found)
        rounded = 0 < change < 1e-2  # bfloat16 keeps three digits
        cause = (
            "they were rounded, as by saving in half precision"
            if rounded
            else "the state that was saved or loaded does not hold all of the model"
        )
        yield self.finding(
            what=f"{len(found)} of {runs.total('weights')} parameters are not those that were "
            f"saved: {named([d.name for d in found])}",
            site=found[0].name,
            step=runs.begins,
            evidence=(
                num_evidence("parameters that differ", found),
                Evidence(name="largest relative difference", value=change, normal="0"),
            ),
            cause=cause,
            fix="save model.state_dict() in full precision, and load it with strict=True",
        )
