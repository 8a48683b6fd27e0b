"""TT808 mode-not-resumed: modules are in eval mode that were trained, or the other way round."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule, named, num_evidence, resume_example
from trimtab.audit._comparison import Comparison
from trimtab.findings import Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class ModeNotResumed(ResumeRule):
    """Modules are in another mode, training or evaluation, than before.

    Why: a model that is evaluated when it is loaded and left in eval mode goes on without dropout,
        and with BatchNorm that neither uses nor updates the statistics of its batches. The other
        way round, layers that were frozen by `eval()` begin to move.

    Measured: `training` of each module right after loading is compared with what it was.

    Silent on: modules without dropout or BatchNorm below them behave alike in both modes, but are
        named all the same.

    Fix: call `model.train()` after loading, and `eval()` of what is to stay frozen.
    """

    code: ClassVar = "TT808"
    name: ClassVar = "mode-not-resumed"
    example: ClassVar = resume_example(
        """
    parts = {"model": setup.model, "optimizer": setup.optimizer, "schedule": setup.scheduler}
    return {name: part.state_dict() for name, part in parts.items()}
""",
        """
    setup.model.load_state_dict(state["model"])
    setup.model.eval()
    setup.optimizer.load_state_dict(state["optimizer"])
    setup.scheduler.load_state_dict(state["schedule"])
""",
    )

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if modes differ."""
        found = runs.changed.get("modes", [])
        found = [d for d in found if d.before is not None and d.after is not None]
        if not found:
            return
        stopped = [d for d in found if d.before]
        was, now = ("training", "eval") if stopped else ("eval", "training")
        yield self.finding(
            what=f"{len(found)} of {runs.total('modes')} modules are in {now} mode after loading "
            f"and were in {was} mode: {named([d.name for d in found])}",
            site=found[0].name,
            step=runs.begins,
            evidence=(num_evidence("modules in another mode", found),),
            cause="the model was left in eval mode after loading: dropout is off, and BatchNorm "
            "uses its running statistics"
            if stopped
            else "modules that were frozen by eval() are in training mode: dropout is on, and "
            "BatchNorm moves its running statistics",
            fix="call model.train() after loading, and eval() of what is to stay frozen",
        )
