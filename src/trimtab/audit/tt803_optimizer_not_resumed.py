"""TT803 optimizer-not-resumed: momentum and other state of the optimizer is not what was saved."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule, named, num_evidence, resume_example
from trimtab.audit._comparison import Comparison
from trimtab.audit._snapshot import Difference
from trimtab.findings import Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class OptimizerNotResumed(ResumeRule):
    """The optimizer's state, such as momentum and Adam's second moments, is not what was saved.

    Why: Adam begins anew with its bias correction, so the first steps after every interruption are
        as large as those at the beginning, at a learning rate that has no warmup any more: the loss
        jumps, and some runs never come back.

    Measured: the state of each parameter right after loading is compared bit for bit with that
        which was saved.

    Silent on: optimizers without a state, such as SGD without momentum.

    Fix: save `optimizer.state_dict()` beside the model, and load it after the optimizer was built
        over the model's parameters, in the same order.
    """

    code: ClassVar = "TT803"
    name: ClassVar = "optimizer-not-resumed"
    leads_to: ClassVar = ("TT804",)
    example: ClassVar = resume_example(
        """
    return {"model": setup.model.state_dict(), "schedule": setup.scheduler.state_dict()}
""",
        """
    setup.model.load_state_dict(state["model"])
    setup.scheduler.load_state_dict(state["schedule"])
""",
    )

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if the state differs."""
        found = runs.changed.get("optimizer", [])
        if not found:
            return
        kinds = list(dict.fromkeys(d.name.partition(": ")[2] for d in found))
        yield self.finding(
            what=f"{len(found)} of {runs.total('optimizer')} values of the optimizer's state are "
            f"not what was saved: {named(kinds)}",
            site=found[0].name.partition(": ")[0],
            step=runs.begins,
            evidence=(num_evidence("values that differ", found),),
            cause=_cause(found, runs, kinds),
            fix="save optimizer.state_dict(), and load it into an optimizer that was built over "
            "the same parameters in the same order",
        )


def _cause(found: Sequence[Difference], runs: Comparison, kinds: Sequence[str]) -> str:
    what = {"momentum_buffer": "momentum buffers", "exp_avg": "Adam's moments"}
    label = next((words for key, words in what.items() if key in kinds), "its state")
    if len(found) == runs.total("optimizer") and all(d.is_missing for d in found):
        return f"{label} were not saved or not loaded: the optimizer begins anew, without memory"
    if any(d.is_missing for d in found):
        return f"{label} of some parameters were not saved or not loaded"
    return f"{label} have other values: they belong to other parameters, or were rounded"
