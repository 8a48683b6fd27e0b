"""TT802 buffers-not-resumed: buffers, such as BatchNorm's statistics, are not those saved."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule, named, num_evidence, resume_example
from trimtab.audit._comparison import Comparison
from trimtab.findings import Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class BuffersNotResumed(ResumeRule):
    """Buffers of the model, such as running statistics of BatchNorm, are not those that were saved.

    Why: training goes on as if nothing were wrong, but evaluation uses statistics that begin anew.
        Buffers get lost where only `named_parameters()` are saved, or where they are registered
        with `persistent=False`.

    Measured: every buffer right after loading is compared bit for bit with the one that was saved.

    Fix: save `model.state_dict()`, which holds buffers, and register what has to last with
        `persistent=True`.
    """

    code: ClassVar = "TT802"
    name: ClassVar = "buffers-not-resumed"
    example: ClassVar = resume_example(
        """
    return {
        "weights": dict(setup.model.named_parameters()),
        "optimizer": setup.optimizer.state_dict(),
        "schedule": setup.scheduler.state_dict(),
    }
""",
        """
    setup.model.load_state_dict(state["weights"], strict=False)
    setup.optimizer.load_state_dict(state["optimizer"])
    setup.scheduler.load_state_dict(state["schedule"])
""",
        model="torch.nn.BatchNorm1d(8)",
    )

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if buffers differ."""
        found = runs.changed.get("buffers", [])
        if not found:
            return
        known = runs.whole.setup.model.state_dict()
        passing = [d.name for d in found if d.name not in known]
        cause = (
            "they are registered with persistent=False, so that no state_dict holds them"
            if len(passing) == len(found)
            else "only parameters were saved or loaded, and buffers such as running statistics of "
            "BatchNorm begin anew"
        )
        yield self.finding(
            what=f"{len(found)} of {runs.total('buffers')} buffers are not those that were saved: "
            f"{named([d.name for d in found])}",
            site=found[0].name,
            step=runs.begins,
            evidence=(num_evidence("buffers that differ", found),),
            cause=cause,
            fix="save and load the whole model.state_dict(), not only its parameters, and register "
            "buffers that have to last with persistent=True",
        )
