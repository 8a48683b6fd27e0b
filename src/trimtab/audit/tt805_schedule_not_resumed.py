"""TT805 schedule-not-resumed: the learning-rate schedule is not where it was."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule, named, num_evidence, resume_example, shown
from trimtab.audit._comparison import Comparison
from trimtab.audit._snapshot import Difference
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class ScheduleNotResumed(ResumeRule):
    """The learning-rate schedule is not where it was.

    Why: it begins anew, with warmup and all, so a run that is interrupted often never reaches the
        low learning rates of its end, and one at its end is thrown back to the peak.

    Measured: the schedule's `state_dict()` right after loading is compared with that which was
        saved.

    Fix: save `scheduler.state_dict()` and load it after the optimizer's state.
    """

    code: ClassVar = "TT805"
    name: ClassVar = "schedule-not-resumed"
    leads_to: ClassVar = ("TT804",)
    example: ClassVar = resume_example(
        """
    return {"model": setup.model.state_dict(), "optimizer": setup.optimizer.state_dict()}
""",
        """
    setup.model.load_state_dict(state["model"])
    setup.optimizer.load_state_dict(state["optimizer"])
""",
    )

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if the schedule differs."""
        found = runs.changed.get("schedule", [])
        if not found:
            return
        place = next((d for d in found if d.name.endswith("last_epoch")), found[0])
        if _began_anew(place):
            cause = "the schedule was not saved or not loaded and began anew: learning rate and "
            cause += "warmup are those of the first step"
        else:
            cause = "the schedule was loaded into one with other settings, or moved after loading"
        yield self.finding(
            what=f"the learning-rate schedule is not where it was: {place.name} was "
            f"{shown(place.before)} and is {shown(place.after)}",
            site=type(runs.whole.setup.scheduler).__name__,
            step=runs.begins,
            evidence=(
                num_evidence(f"values that differ ({named([d.name for d in found])})", found),
                Evidence(name=place.name, value=shown(place.after), normal=shown(place.before)),
            ),
            cause=cause,
            fix="save scheduler.state_dict(), and load it after the optimizer's state",
        )


def _began_anew(place: Difference) -> bool:
    return place.name.endswith("last_epoch") and place.after in {0, -1}
