"""Gradient accumulation: a step at every k-th micro-batch."""

import ast
import re
from typing import TYPE_CHECKING, Final

from trimtab.lint._scopes import dotted
from trimtab.lint._source import names_in

if TYPE_CHECKING:
    from trimtab.lint._source import Source
    from trimtab.lint._trace import Event

COUNTS: Final = re.compile(r"(?i)accum|micro_?batch|micro_?steps?|grad_steps|iter_size|num_micro")
"""Names of a number of micro-batches."""


def counted(source: "Source", step: "Event", backward: "Event") -> ast.expr | None:
    """Return k of the condition `... % k == 0` that parts a step from its backward."""
    mine = {(b.node, b.arm) for b in backward.context.branches}
    for branch in step.context.branches:
        if (branch.node, branch.arm) in mine or not isinstance(branch.node, ast.If):
            continue
        test = branch.node.test
        named = [  # is_last = (i + 1) % k == 0
            found.value
            for name in sorted(names_in(test))
            for found in source.scope_of(test).find(name)
            if found.value is not None
        ]
        for condition in [test, *named]:
            if (number := _modulus(condition)) is not None:
                return number
    return None


def steps_every(source: "Source", step: "Event", backward: "Event") -> str | None:
    """Return how many passes there are to a step, as it is written; None where each has one."""
    number = counted(source, step, backward)
    if number is None or (isinstance(number, ast.Constant) and number.value == 1):
        return None
    return ast.unparse(number)


def _modulus(condition: ast.expr) -> ast.expr | None:
    """Return k of `... % k == 0`, or of `count == accumulation_steps`."""
    for part in ast.walk(condition):
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod):
            return part.right
        if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq | ast.GtE | ast.Gt):
            right = part.comparators[0]
            if COUNTS.search(dotted(right)):
                return right
    return None
