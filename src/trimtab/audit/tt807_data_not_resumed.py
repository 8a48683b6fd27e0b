"""TT807 data-not-resumed: the batches are not those that would have come."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule, resume_example
from trimtab.audit._comparison import Comparison
from trimtab.findings import Evidence, Finding, Severity, register


@register
@dataclass(frozen=True, kw_only=True)
class DataNotResumed(ResumeRule):
    """The batches after resuming are not those that would have come.

    Why: a loader that begins anew shows the first part of the data once more and, if the run is
        interrupted in each epoch, never the last. With another order some examples come twice and
        others not at all. In a run of few epochs, as with language models, the repeated part is
        learned by heart.

    Measured: by a fingerprint of every batch.

    Silent on: batches that are all the same.

    Fix: use torchdata's `StatefulDataLoader`, and save and load its `state_dict()`; or derive the
        batch from the step's number alone. The state of torchdata's loader (0.11) holds the order
        of the epoch under way, not that of the next: draw each from the seed and its number.

    Source: torchdata documentation 2025, "Stateful DataLoader".
    """

    code: ClassVar = "TT807"
    name: ClassVar = "data-not-resumed"
    severity: ClassVar = Severity.WARNING
    rank: ClassVar = 23
    example: ClassVar = resume_example(
        """
    parts = {"model": setup.model, "optimizer": setup.optimizer, "schedule": setup.scheduler}
    return {name: part.state_dict() for name, part in parts.items()}
""",
        """
    setup.model.load_state_dict(state["model"])
    setup.optimizer.load_state_dict(state["optimizer"])
    setup.scheduler.load_state_dict(state["schedule"])
""",
        batches="[(x, x.sum(1, keepdim=True)) for x in torch.randn(9, 4, 8)]",
    )

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if a batch differs."""
        right = [s.batch for s in runs.rest]
        got = [s.batch for s in runs.resumed.steps][: len(right)]
        wrong = [i for i, (one, other) in enumerate(zip(right, got, strict=False)) if one != other]
        if not wrong:
            return
        started = [s.batch for s in runs.whole.steps][: len(got)]
        how, cause, fix = _OTHER
        if got == started:
            how, cause, fix = _ANEW
        elif wrong[0] > 0:
            how, cause, fix = _LATER
        yield self.finding(
            what=f"{len(wrong)} of {len(got)} batches after resuming are not those that would "
            f"have come: the data {how}",
            site="batches",
            step=runs.begins + wrong[0],
            evidence=(Evidence(name="batches that differ", value=len(wrong), normal="0"),),
            cause=cause,
            fix=fix,
        )


_FIX = (
    "use torchdata's StatefulDataLoader with a generator of its own, and save and load its "
    "state_dict(), or derive each batch from the number of the step"
)
_ANEW = (
    "began anew",
    "the data loader does not know its position: it shows the first batches again",
    _FIX,
)
_OTHER = (
    "came in another order",
    "neither position nor order of the data loader was saved: it shuffles anew",
    _FIX,
)
_LATER = (
    "went on and then came in another order",
    "the epoch is ended as it should be, but the generator that shuffles the next one is not where "
    "it was: a loader's state does not hold it",
    "draw the order of each epoch from the seed and the epoch's number, as samplers with "
    "set_epoch() do",
)
