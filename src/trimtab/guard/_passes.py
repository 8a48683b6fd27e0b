"""Loops with several optimizers: which steps share a backward pass, and where replays may begin.

Each `optimizer.step()` is a step of its own. One that has no backward pass of its own uses the
gradients that the last one left, as where one loss trains a body and a head.
"""

from collections.abc import Collection, Sequence

from trimtab.guard._tape import TapeStep


def begins_whole(steps: Sequence[TapeStep]) -> bool:
    """Tell whether steps use no gradient from before the first of them.

    Only then can they be made again: a snapshot has no gradients in it.
    """
    cleared: set[int] = set()
    for step in steps:
        for micro in step.micro_steps:
            if micro.fresh is None:  # of one optimizer, whose gradients are those of its step
                cleared.add(step.which)
            else:
                cleared |= micro.fresh
        if step.which not in cleared:
            return False
    return True


def without_leftovers(steps: Sequence[TapeStep]) -> list[TapeStep]:
    """Return the steps without those at the beginning that were left out for want of gradients.

    So it is with what remains of a pass after the run has gone back in the middle of it.
    """
    first = 0
    while first < len(steps) and steps[first].skipped and not steps[first].micro_steps:
        first += 1
    return list(steps[first:])


def with_partners(steps: Sequence[TapeStep], numbers: Collection[int]) -> frozenset[int]:
    """Return step numbers with those of all steps that use the same backward pass."""
    groups: list[set[int]] = []
    for step in steps:
        if step.micro_steps or not groups:
            groups.append(set())
        groups[-1].add(step.number)
    found = [group for group in groups if not group.isdisjoint(numbers)]
    return frozenset(numbers).union(*found)


def leader(steps: Sequence[TapeStep], number: int) -> TapeStep | None:
    """Return the step whose backward pass a step uses; None if it is not among them."""
    with_own = [step for step in steps if step.number <= number and step.micro_steps]
    return with_own[-1] if with_own else None
