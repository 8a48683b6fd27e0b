"""TT806 random-state-not-resumed: dropout and the like draw other numbers than they would have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule, resume_example
from trimtab.audit._comparison import Comparison
from trimtab.findings import Evidence, Finding, Severity, register


@register
@dataclass(frozen=True, kw_only=True)
class RandomStateNotResumed(ResumeRule):
    """The steps draw random numbers, and the random state is not what it was.

    Why: dropout, sampling and augmentation draw other numbers than they would have. The run is as
        good as the other, but it is another one: no incident can be reproduced from a checkpoint,
        and a seed that is set anew after every interruption drops the same units again and again.

    Measured: the global random states of torch, NumPy and Python right after loading are compared
        with those saved, as far as the steps afterwards draw from them.

    Silent on: states that no step draws from, as with a model without dropout.

    Fix: save `torch.get_rng_state()`, on GPUs `torch.cuda.get_rng_state_all()` as well, and what
        NumPy and Python have; put them back last of all.

    Source: PyTorch documentation 2025, "Reproducibility".
    """

    code: ClassVar = "TT806"
    name: ClassVar = "random-state-not-resumed"
    severity: ClassVar = Severity.WARNING
    rank: ClassVar = 24
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
        model="torch.nn.Dropout(0.5)",
    )

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if steps draw from a state that is not what it was."""
        at_step = {k for k in runs.draws if runs.whole.random.get(k) != runs.resumed.random.get(k)}
        if runs.loaded_random is None:
            if runs.moves_data:  # else the order of the data may have moved it
                yield from self._report(runs, at_step, _LOST)
            return
        lost = {k for k in at_step if runs.loaded_random.get(k) != runs.saved_random.get(k)}
        yield from self._report(runs, lost, _LOST)
        if runs.moves_data:
            yield from self._report(runs, at_step - lost, _MOVED)

    def _report(
        self, runs: Comparison, kinds: set[str], words: tuple[str, str]
    ) -> Iterator[Finding]:
        if not kinds:
            return
        whose = " and ".join(sorted(kinds))
        draws = sum(bool(s.draws & kinds) for s in runs.rest)
        yield self.finding(
            what=f"{draws} of {len(runs.rest)} steps draw from the random state of {whose}, which "
            "is not what it was",
            site=whose,
            step=runs.begins,
            evidence=(Evidence(name="random states that differ", value=len(kinds), normal="0"),),
            cause=words[0],
            fix=words[1],
        )


_LOST = (
    "the random state was not saved or not put back: dropout and whatever else draws random "
    "numbers differs from here on",
    "save torch.get_rng_state() and its kin, as trimtab.checkpoint.random_state() does, and put "
    "them back after everything else was loaded",
)
_MOVED = (
    "the random state was put back, but the data loader drew from it when it began: dropout and "
    "whatever else draws random numbers differs from here on",
    "pass the DataLoader a generator of its own (generator=torch.Generator()), or put the random "
    "state back after iter(loader)",
)
