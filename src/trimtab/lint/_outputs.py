"""What a tensor holds, judged by the last operation that made it: logits, probabilities or else."""

import ast
from typing import TYPE_CHECKING, Final

from trimtab.lint._names import AFFINE, LOSSES, SHAPERS
from trimtab.lint._origins import reaching
from trimtab.lint._scopes import ClassInfo, Definition, dotted
from trimtab.lint._source import is_constant, keyword, last_name

if TYPE_CHECKING:
    from trimtab.lint._source import Source

KINDS: Final = {
    "softmax": "softmax",
    "Softmax": "softmax",
    "Softmax2d": "softmax",
    "gumbel_softmax": "softmax",
    "log_softmax": "log_softmax",
    "LogSoftmax": "log_softmax",
    "sigmoid": "sigmoid",
    "Sigmoid": "sigmoid",
    "expit": "sigmoid",
    "logsigmoid": "other",
    "relu": "other",
    "tanh": "other",
    "linear": "logits",
    **dict.fromkeys(AFFINE, "logits"),
}
"""What operations return."""
DEPTH: Final = 12


class Outputs:
    """Finds what kind of values expressions have; `unknown` among them where it is not certain."""

    def __init__(self, source: "Source") -> None:
        self.source = source
        self._busy: set[ast.AST] = set()

    def of(self, node: ast.expr | None, index: int | None = None) -> set[str]:
        """Return the kinds that an expression can be of.

        Args:
            node: The expression.
            index: Place in the tuple that it is, if one is meant.
        """
        if node is None or node in self._busy or len(self._busy) > DEPTH:
            return {"unknown"}
        self._busy.add(node)
        try:
            return self._of(node, index)
        finally:
            self._busy.discard(node)

    def _of(self, node: ast.expr, index: int | None) -> set[str]:
        if isinstance(node, ast.Tuple | ast.List) and index is not None and index < len(node.elts):
            return self.of(node.elts[index])
        if isinstance(node, ast.Call):
            return self._call(node, index)
        if isinstance(node, ast.Name | ast.Attribute):
            found = reaching(self.source, node)
            if any(d.how != "assign" for d in found) or not found:
                return {"unknown"}
            return set().union(*(self._definition(d, index) for d in found))
        if isinstance(node, ast.IfExp):
            return self.of(node.body, index) | self.of(node.orelse, index)
        if isinstance(node, ast.Subscript) and index is None:
            place = node.slice
            inner = self.of(node.value)
            if isinstance(place, ast.Constant) and isinstance(place.value, int):
                return self.of(node.value, place.value) if inner == {"unknown"} else inner
            return inner
        return {"unknown"}

    def _definition(self, found: Definition, index: int | None) -> set[str]:
        if found.index is not None:
            return self.of(found.value, found.index) if index is None else {"unknown"}
        return self.of(found.value, index)

    def _call(self, node: ast.Call, index: int | None) -> set[str]:
        source = self.source
        name = source.called(node)
        if name in KINDS and index is None and not name[0].isupper():
            return {KINDS[name]}
        if name in SHAPERS and node.args:
            return self.of(node.args[0], index)
        if name == "log" and node.args and self.of(node.args[0]) == {"softmax"}:
            return {"log_softmax"}
        if isinstance(node.func, ast.Attribute) and not name:
            method = node.func.attr
            base = self.source.called(node.func.value)
            if method in {"softmax", "log_softmax", "sigmoid"} and not base:
                return {KINDS[method]}
            if method in SHAPERS:
                return self.of(node.func.value, index)
            if method == "log" and self.of(node.func.value) == {"softmax"}:
                return {"log_softmax"}
        function = source.origins.function_called(node)
        if function is not None:
            returned = source.origins.returned(function)
            return set().union(*(self.of(r, index) for r in returned)) or {"unknown"}
        return self._module_call(node.func, index)

    def _module_call(self, func: ast.expr, index: int | None) -> set[str]:
        origins = self.source.origins.of(func)
        if not origins:
            info = lone_model(self.source, func)
            return self.of_class(info, index) if info else {"unknown"}
        kinds: set[str] = set()
        for origin in origins:
            kinds |= self.of_maker(origin, index)
        return kinds

    def of_maker(self, node: ast.expr, index: int | None = None) -> set[str]:
        """Return what a module returns that an expression makes: `nn.Linear(2, 2)`, `Net()`."""
        if not isinstance(node, ast.Call):
            if not isinstance(node, ast.Name):
                return {"unknown"}
            infos = self.source.origins.instances(node)  # of `self`, where it calls itself
            if not infos and (lone := lone_model(self.source, node)):
                infos = [lone]
            return set().union(*(self.of_class(i, index) for i in infos)) or {"unknown"}
        info = self.source.origins.local_class(node)
        if info is not None:
            return self.of_class(info, index)
        name = self.source.called(node)
        if index is not None:
            return {"unknown"}
        if name == "Sequential":
            return self._last_of(node)
        return {KINDS.get(name, "unknown")}

    def _last_of(self, node: ast.Call) -> set[str]:
        if not node.args:
            return {"unknown"}
        last = node.args[-1]
        if isinstance(last, ast.Call) and self.source.called(last) == "OrderedDict" and last.args:
            rows = last.args[0]
            if isinstance(rows, ast.List) and rows.elts and isinstance(rows.elts[-1], ast.Tuple):
                last = rows.elts[-1].elts[-1]
        if isinstance(last, ast.Starred):
            return self._last_of_list(last.value)
        if self.source.called(last) in {"Flatten", "Unflatten", "Identity"} and len(node.args) > 1:
            last = node.args[-2]
        return set().union(*(self.of_maker(o) for o in self.source.origins.of(last))) or {"unknown"}

    def _last_of_list(self, node: ast.expr) -> set[str]:
        """Return what the last layer returns of a list that is written out or appended to."""
        key = dotted(node)
        scope = self.source.scope_of(node)
        appended = [
            c
            for c in self.source.all(ast.Call)
            if key
            and isinstance(c.func, ast.Attribute)
            and c.func.attr in {"append", "extend", "insert"}
            and dotted(c.func.value) == key
            and self.source.scope_of(c) is scope
        ]
        if not appended or appended[-1].func.attr != "append":  # type: ignore[attr-defined]
            return {"unknown"}
        last = appended[-1]
        if any(isinstance(n, ast.If | ast.For | ast.While) for n in self.source.around(last)):
            return {"unknown"}
        return self.of_maker(last.args[0]) if last.args else {"unknown"}

    def of_class(self, info: ClassInfo, index: int | None = None) -> set[str]:
        """Return what the forward pass of one of the file's classes returns."""
        forward = self.source.origins.method(info, "forward")
        if forward is None:
            if any(last_name(b) == "Sequential" for b in info.bases):
                return self._sequential_class(info)
            return {"unknown"}
        returned = self.source.origins.returned(forward)
        return set().union(*(self.of(r, index) for r in returned)) or {"unknown"}

    def _sequential_class(self, info: ClassInfo) -> set[str]:
        start = info.methods.get("__init__")
        for call in self.source.all(ast.Call):
            func = call.func
            if (
                isinstance(func, ast.Attribute)
                and func.attr == "__init__"
                and self.source.scope_of(call).node is start
            ):
                return self._last_of(call)
        return {"unknown"}


def lone_model(source: "Source", node: ast.expr) -> ClassInfo | None:
    """Return the file's only network, for a name that says `model` and is made elsewhere."""
    if not source.origins.is_model(node):
        return None
    modules = [c for c in source.classes if source.origins.is_module(c)]
    parts = {
        source.origins.local_class(call)
        for call in source.all(ast.Call)
        if (owner := source.scope_of(call).owner) and owner in modules
    }
    whole = [m for m in modules if m not in parts and "forward" in m.methods]
    return whole[0] if len(whole) == 1 and not _defined_elsewhere(source, node) else None


def _defined_elsewhere(source: "Source", node: ast.expr) -> bool:
    """Tell whether a model is made by a call of something that the file does not define."""
    return any(isinstance(o, ast.Call) for o in source.origins.of(node))


def loss_names(source: "Source", call: ast.Call) -> set[str]:
    """Return the names of the losses that a call can compute; empty if it is none that is known."""
    name = source.called(call)
    if name in LOSSES:
        return {name} if not name[0].isupper() else set()
    if isinstance(call.func, ast.Call):
        inner = source.called(call.func)
        return {inner} & LOSSES
    names = {
        source.called(o)  # of nn.MSELoss() as of a plain F.mse_loss
        for o in source.origins.of(call.func)
        if isinstance(o, ast.Call | ast.Attribute | ast.Name)
    }
    return names & LOSSES if names and names <= LOSSES else set()


def loss_arguments(call: ast.Call) -> tuple[ast.expr | None, ast.expr | None]:
    """Return what a loss gets as prediction and as target."""
    first = keyword(call, "input", 0)
    second = keyword(call, "target", 1)
    return (None if is_constant(first, None) else first), second
