"""TT804 group-settings-not-resumed: learning rate and other settings are not those saved."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule, named, num_evidence, resume_example, shown
from trimtab.audit._comparison import Comparison
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class GroupSettingsNotResumed(ResumeRule):
    """Settings of parameter groups, such as the learning rate, are not those that were saved.

    Why: the run goes on with another learning rate, weight decay or momentum than it had. It
        happens where a state is copied by hand without its `param_groups`, where settings are set
        anew after loading, and where the schedule is built after the optimizer was loaded: its
        constructor writes its first learning rate over the one that was loaded.

    Measured: the settings of each group right after loading are compared with those saved.

    Fix: build optimizer and schedule first, then load both states, and set nothing afterwards.

    Source: PyTorch documentation 2025, `torch.optim`, "How to adjust learning rate".
    """

    code: ClassVar = "TT804"
    name: ClassVar = "group-settings-not-resumed"
    rank: ClassVar = 22
    example: ClassVar = resume_example(
        """
    parts = {"model": setup.model, "optimizer": setup.optimizer, "schedule": setup.scheduler}
    return {name: part.state_dict() for name, part in parts.items()}
""",
        """
    setup.model.load_state_dict(state["model"])
    setup.optimizer.load_state_dict(state["optimizer"])
    setup.scheduler.load_state_dict(state["schedule"])
    for group in setup.optimizer.param_groups:
        group["weight_decay"] = 0.1
""",
    )

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if settings differ."""
        found = runs.changed.get("groups", [])
        if not found:
            return
        first = found[0]
        group, _, key = first.name.partition(": ")
        yield self.finding(
            what=f"{len(found)} settings of parameter groups are not what was saved "
            f"({named([d.name for d in found])}): {key} was {shown(first.before)} and is "
            f"{shown(first.after)}",
            site=group,
            step=runs.begins,
            evidence=(
                num_evidence("settings that differ", found),
                Evidence(name=key, value=shown(first.after), normal=shown(first.before)),
            ),
            cause="settings of the parameter groups, such as learning rate and weight decay, were "
            "not loaded, or something was set after loading",
            fix="build optimizer and schedule first, then load both states, and set no learning "
            "rate or weight decay afterwards",
        )
