"""An uninterrupted run beside the same one interrupted and resumed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trimtab.audit._session import Session, StepSeen
from trimtab.audit._snapshot import Difference, Parts, differences


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the rules on resuming look at.

    Attributes:
        stop: Steps before the interruption.
        whole: The uninterrupted run.
        first: The run until the interruption.
        resumed: The rest of it, on objects that were built afresh.
        saved_random: Fingerprints of the global random states when the state was saved.
        loaded_random: Those right after loading; None where the user's function does both.
    """

    stop: int
    whole: Session
    first: Session
    resumed: Session
    saved_random: dict[str, str] = field(default_factory=dict)
    loaded_random: dict[str, str] | None = None

    @property
    def begins(self) -> int:
        """Number of the first step after loading."""
        return self.stop + 1

    @property
    def rest(self) -> Sequence[StepSeen]:
        """Steps of the uninterrupted run after the interruption."""
        return self.whole.steps[self.stop :]

    @property
    def unrepeated(self) -> int | None:
        """First step before the interruption in which the two runs differ already."""
        return _first_difference(self.whole.steps[: self.stop], self.first.steps)

    @property
    def differs_from(self) -> int | None:
        """First step whose batch, loss or weights differ; None if there is none."""
        found = _first_difference(self.rest, self.resumed.steps)
        return None if found is None else self.stop + found

    @cached_property
    def changed(self) -> dict[str, list[Difference]]:
        """What is not as it was right after loading, by part."""
        return compare(self.whole.kept, self.resumed.kept)

    @cached_property
    def final(self) -> dict[str, list[Difference]]:
        """What is not equal in the end, by part."""
        return compare(self.whole.end, self.resumed.end)

    def total(self, part: str) -> int:
        """Return how many values a part has in the uninterrupted run."""
        return len((self.whole.kept or {}).get(part, {}))

    @property
    def moves_data(self) -> bool:
        """Whether the resumed run got the batches that the other got."""
        mine = [s.batch for s in self.resumed.steps]
        return mine == [s.batch for s in self.rest][: len(mine)]

    @property
    def draws(self) -> frozenset[str]:
        """Whose random states the steps after the interruption drew from."""
        return frozenset().union(*(s.draws for s in self.rest))


def compare(before: Parts | None, after: Parts | None) -> dict[str, list[Difference]]:
    """Return the differences of two snapshots by part; of none, nothing."""
    if before is None or after is None:
        return {}
    return {part: differences(before[part], after[part]) for part in before}


def _first_difference(ours: Sequence[StepSeen], theirs: Sequence[StepSeen]) -> int | None:
    """Return the number, from 1, of the first step that differs."""
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), start=1):
        if one.result != other.result:
            return number
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs)) + 1
