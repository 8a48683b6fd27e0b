"""Which parts of a program evaluate a network, and in what state it is then."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.lint._graph import is_no_grad, roots_of
from trimtab.lint._names import EVALUATION_NAME, HELD_OUT_NAME, TRAIN_DATA_NAME
from trimtab.lint._scopes import FUNCTIONS, dotted
from trimtab.lint._source import names_in
from trimtab.lint._trace import Event, Trace

if TYPE_CHECKING:
    from trimtab.lint._source import Source


@dataclass(frozen=True)
class Evaluation:
    """A forward pass on held-out data."""

    trace: Trace
    forward: Event
    loop: ast.AST | None
    """Over the data; None for a single batch."""


def evaluations(source: "Source") -> Iterator[Evaluation]:
    """Yield the forward passes that certainly evaluate: on held-out data, nothing goes backward."""
    for trace in source.traces:
        busy = {id(loop) for e in trace.of("backward", "step") for loop in e.loops}
        for event in trace.of("forward"):
            loop = next((n for n in reversed(event.loops) if isinstance(n, ast.For)), None)
            free = loop is not None and id(loop) not in busy
            if loop is not None and free and _evaluates(source, trace, event, loop):
                yield Evaluation(trace, event, loop)
            elif _on_held_out_batch(event) and not _trains(source, event, trace):
                yield Evaluation(trace, event, None)


def _evaluates(source: "Source", trace: Trace, event: Event, loop: ast.For) -> bool:
    """Tell whether a loop is over held-out data, or in a function that evaluates by what it does.

    That is one whose name says so and that turns gradients off or the network to evaluation.
    """
    if _is_held_out(event, loop):
        return True
    function = source.function(event.node)
    if function is None or not EVALUATION_NAME.search(function.name):
        return False
    if function.name.lstrip("_").startswith("test_"):  # as likely a test of pytest's
        return False
    if source.function(loop) is not function:
        return False
    turned = any(
        e.detail == "eval" and source.function(e.node) is function for e in trace.of("mode")
    )
    return turned or without_gradients(event)


def _is_held_out(event: Event, loop: ast.For) -> bool:
    names = {event.context.key(n) for n in ast.walk(loop.iter) if isinstance(n, ast.expr)}
    names = {n for n in names | names_in(loop.iter) if n and "size" not in n}
    if any(TRAIN_DATA_NAME.search(n) for n in names):
        return False
    return any(HELD_OUT_NAME.search(n) for n in names)


def _on_held_out_batch(event: Event) -> bool:
    """Tell whether a network is called on a whole held-out set: `model(x_test)`."""
    call = event.node
    if not isinstance(call, ast.Call) or not call.args:
        return False
    name = event.context.key(call.args[0]) or dotted(call.args[0])
    return bool(HELD_OUT_NAME.search(name)) or name.lower() in {"xtest", "xval", "testx", "valx"}


def _trains(source: "Source", event: Event, trace: Trace) -> bool:
    """Tell whether what is computed from a call goes backward."""
    mine = set()
    statement = source.statement(event.node)
    if isinstance(statement, ast.Assign):
        mine = {n.id for t in statement.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    for backward in trace.of("backward"):
        if backward.loss is None:
            continue
        same = source.scope_of(backward.node) is source.scope_of(event.node)
        if same and mine & roots_of(source, backward.loss):
            return True
    return False


def in_evaluation_function(source: "Source", event: Event) -> bool:
    """Tell whether the function around an event says by its name that it evaluates."""
    function = source.function(event.node)
    return function is not None and bool(EVALUATION_NAME.search(function.name))


def without_gradients(event: Event) -> bool:
    """Tell whether an event happens where gradients are off."""
    return any(is_no_grad(ast.unparse(w)) for w in event.context.withs)


def caller_is_known(source: "Source", evaluation: Evaluation) -> bool:
    """Tell whether it is seen how the evaluation is come by: not a function nobody here calls."""
    root = evaluation.trace.root
    return not isinstance(root, FUNCTIONS) or (source.function(evaluation.forward.node) is not root)


def mode_before(evaluation: Evaluation) -> Event | None:
    """Return the last change of the network's mode before it is evaluated."""
    forward = evaluation.forward
    key = forward.key.partition(".")[0] if not forward.key.startswith("self.") else forward.key
    before = [
        e
        for e in evaluation.trace.of("mode")
        if e.index < forward.index and (e.key in {forward.key, key} or not e.key or e.key == "self")
    ]
    return before[-1] if before else None
