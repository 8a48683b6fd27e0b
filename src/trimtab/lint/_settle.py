"""Conditions on values that are known from outside: what cannot happen is left out."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Final

COMPARISONS: Final[dict[type[ast.cmpop], Callable[[float, float], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}


def settle(
    tree: ast.Module, constants: Mapping[str, object], objects: Mapping[str, str]
) -> ast.Module:
    """Return a tree without the branches that known values rule out.

    Args:
        tree: Of a fragment.
        constants: Values of names from outside.
        objects: Names from outside that stand for objects, so for something that is not None.
    """
    if not constants and not objects:
        return tree
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    known = {k: v for k, v in constants.items() if k not in own}
    if known or objects:
        _Settle(known, frozenset(objects) - own).visit(tree)
    return tree


class _Settle(ast.NodeTransformer):
    """Puts the branch that is taken in place of a condition that is known."""

    def __init__(self, constants: Mapping[str, object], objects: frozenset[str]) -> None:
        self.constants = constants
        self.objects = objects

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Return the branch that is taken."""
        self.generic_visit(node)
        truth = self.truth(node.test)
        if truth is None:
            return node
        return (node.body if truth else node.orelse) or ast.copy_location(ast.Pass(), node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """Return the value that is taken."""
        self.generic_visit(node)
        truth = self.truth(node.test)
        if truth is None:
            return node
        return node.body if truth else node.orelse

    def truth(self, test: ast.expr) -> bool | None:
        """Return whether a condition holds; None if that is not known."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.truth(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return self._compared(test.left, test.ops[0], test.comparators[0])
        if isinstance(test, ast.BoolOp):
            parts = [self.truth(v) for v in test.values]
            deciding = isinstance(test.op, ast.Or)  # one of these is enough
            if deciding in parts:
                return deciding
            return None if None in parts else not deciding
        if isinstance(test, ast.Name) and test.id in self.constants:
            return bool(self.constants[test.id])
        return None

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> bool | None:
        if not isinstance(left, ast.Name) or not isinstance(right, ast.Constant):
            return None
        if right.value is None and isinstance(op, ast.Is | ast.IsNot):
            if left.id in self.objects:
                return isinstance(op, ast.IsNot)
            if left.id in self.constants:
                return (self.constants[left.id] is None) == isinstance(op, ast.Is)
            return None
        value = self.constants.get(left.id)
        compare = COMPARISONS.get(type(op))
        if compare is None or not isinstance(value, int | float):
            return None
        return compare(value, right.value) if isinstance(right.value, int | float) else None
