"""One pass of training: what happens between two steps of an optimizer."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.lint._trace import Event, Kind, Trace

if TYPE_CHECKING:
    from trimtab.lint._source import Source


@dataclass(frozen=True)
class Cycle:
    """The events of a loop, or of a function that is one step."""

    trace: Trace
    loop: ast.AST | None
    """None for a function that is one step."""
    depth: int
    """Loops around its events, itself included."""
    events: Sequence[Event]

    def of(self, *kinds: Kind, via: str | None = None) -> list[Event]:
        """Return the events of some kinds, and of one way if that matters."""
        return [e for e in self.events if e.kind in kinds and via in {None, e.via}]

    def between(self, first: Event, last: Event) -> Iterator[Event]:
        """Yield the events between two, round the loop if the first comes later."""
        if first.index < last.index:
            yield from (e for e in self.events if first.index < e.index < last.index)
        else:
            yield from (e for e in self.events if e.index > first.index)
            yield from (e for e in self.events if e.index < last.index)


def cycles(source: "Source", *kinds: Kind) -> list[Cycle]:
    """Return every innermost loop around an event of these kinds, each once.

    A function outside any loop counts where the source is known to be one step.

    Args:
        source: To be searched.
        kinds: Of the events; a step of an optimizer if none are given.
    """
    found: dict[tuple[object, ...], Cycle] = {}
    for trace in source.traces:
        for event in trace.of(*(kinds or ("step",))):
            loop = event.loops[-1] if event.loops else None
            if loop is None and not (source.fragment and trace.root is not source.module.node):
                continue
            key = (trace.root, event.loops)
            if key not in found:
                found[key] = Cycle(trace, loop, len(event.loops), trace.cycle(event))
    return list(found.values())


def is_wildcard(event: Event) -> bool:
    """Tell whether an event's subject is the variable of a loop, or has no name at all."""
    root = event.key.partition(".")[0].partition("[")[0]
    if not root or "[" in event.key:
        return True
    for loop in event.loops:
        target = getattr(loop, "target", None)
        if target is not None and any(
            isinstance(n, ast.Name) and n.id == root for n in ast.walk(target)
        ):
            return True
    return False


def concerns(event: Event, step: Event, optimizers: set[str]) -> bool:
    """Tell whether clearing gradients can clear those of a step's optimizer.

    Args:
        event: That clears.
        step: Of the optimizer.
        optimizers: Names of all optimizers that step in the trace.
    """
    if is_wildcard(event) or is_wildcard(step) or event.key == step.key:
        return True
    return event.key not in optimizers
