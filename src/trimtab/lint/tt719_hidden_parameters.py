"""Layers and parameters that a module does not know of."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._edits import edit_fix, replace_node
from trimtab.lint._names import LAYERS, words
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import ClassInfo, Definition, dotted
from trimtab.lint._source import Source, is_constant, keyword

REGISTERING: Final = ("add_module", "register_module", "setattr(self", "register_parameter")
READING: Final = words("len enumerate zip range reversed iter print")
"""Calls that register nothing."""
PARAMETERLESS: Final = words(
    "ReLU ReLU6 LeakyReLU GELU SiLU ELU SELU CELU Tanh Sigmoid Softplus Softmax "
    "LogSoftmax Dropout Dropout1d Dropout2d Dropout3d AlphaDropout Flatten Unflatten "
    "MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d Upsample "
    "AdaptiveAvgPool1d AdaptiveAvgPool2d Identity Hardtanh Hardswish Mish "
    "PixelShuffle ZeroPad2d"
)


@register
@dataclass(frozen=True, kw_only=True)
class HiddenParameters(SourceRule):
    """Layers stand in a plain list or dict, where the module does not see their parameters.

    Why: a module finds its parts among its attributes. What is in a list, a tuple or a dict is not
    in `parameters()`: the optimizer never updates it, `.to(device)` leaves it behind, and
    `state_dict()` does not save it. The same goes for a tensor with `requires_grad=True` that is
    no `nn.Parameter`.
    Measured: in a subclass of `nn.Module`, an attribute is a list, tuple, dict or comprehension of
    layers that are made there, or such a list is appended to.
    Silent on: lists that are also registered (`ModuleList(self.x)`, `add_module`), lists of
    modules that come from outside, and layers without parameters.
    Fix: `nn.ModuleList([...])`, `nn.ModuleDict({...})` or `nn.Parameter(...)`.
    Source: torch.nn.ModuleList; Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT719"
    name: ClassVar = "hidden-parameters"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar[int] = 24
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 8) for _ in range(4)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x
"""
    good: ClassVar = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each attribute that hides parameters."""
        for info in source.classes:
            if not source.origins.is_module(info):
                continue
            text = "\n".join(source.lines[info.node.lineno - 1 : info.node.end_lineno])
            if any(word in text for word in REGISTERING):
                continue
            for name, definitions in info.attributes.items():
                judged = (self._judge(source, info, name, d) for d in definitions)
                finding = next((f for f in judged if f is not None), None)
                if finding is not None and not self._is_registered(info, name):
                    yield finding

    def _is_registered(self, info: ClassInfo, name: str) -> bool:
        """Tell whether the attribute is also handed to a container, or whole to something else."""
        return _is_passed_on(info.node, f"self.{name}")

    def _judge(
        self, source: Source, info: ClassInfo, name: str, found: Definition
    ) -> Finding | None:
        value = found.value
        if found.how != "assign" or found.index is not None or value is None:
            return None
        if found.scope.name and not dotted(_target(found)).startswith("self."):
            return None
        if isinstance(value, ast.Name):
            return self._from_local(source, name, value)
        kind = _container(value)
        if kind == "tensor" and _is_loose_tensor(source, value):
            return self._loose(source, name, value)
        if kind in {"list", "dict"}:
            layer = self._layer_in(source, value) or self._appended(source, info, name, value)
            if layer:
                return self._hidden(source, name, value, layer, kind)
        return None

    def _from_local(self, source: Source, name: str, value: ast.Name) -> Finding | None:
        """Find a local list of layers that becomes the attribute as it is."""
        scope = source.scope_of(value)
        made = [d.value for d in scope.definitions.get(value.id, ()) if d.how == "assign"]
        if len(made) != 1 or made[0] is None or _container(made[0]) not in {"list", "dict"}:
            return None
        if _is_passed_on(scope.node, value.id):
            return None
        layer = self._layer_in(source, made[0])
        for given in [] if layer else _put_into(scope.node, value.id):
            for origin in [given, *source.origins.of(given)]:
                if isinstance(origin, ast.Call):
                    layer = layer or self._layer(source, origin)
        return self._hidden(source, name, value, layer, _container(made[0])) if layer else None

    def _layer_in(self, source: Source, value: ast.expr) -> str:
        """Return the name of a layer that is made inside a list, dict or comprehension."""
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add | ast.Mult):
            return self._layer_in(source, value.left) or self._layer_in(source, value.right)
        if isinstance(value, ast.Call):
            return self._layer_in(source, value.args[0]) if value.args else ""
        for element in _elements(value):
            if isinstance(element, ast.Tuple | ast.List) and (
                inner := self._layer_in(source, element)
            ):
                return inner
            if isinstance(element, ast.Call) and (name := self._layer(source, element)):
                return name
        return ""

    def _layer(self, source: Source, call: ast.Call) -> str:
        info = source.origins.local_class(call)
        if info is not None:
            return info.name if source.origins.is_module(info) and _owns(source, info) else ""
        name = source.called(call)
        if name == "Parameter":
            return name
        if name == "Sequential":
            parts = [a for a in call.args if isinstance(a, ast.Call)]
            return name if any(self._layer(source, p) for p in parts) else ""
        known = name in LAYERS - PARAMETERLESS
        return name if known and source.qualname(call.func).startswith("torch") else ""

    def _appended(self, source: Source, info: ClassInfo, name: str, value: ast.expr) -> str:
        """Return the name of a layer that is appended to an empty list, or put into a dict."""
        if not (isinstance(value, ast.List | ast.Dict | ast.Call) and not _filled(value)):
            return ""
        for given in _put_into(info.node, f"self.{name}"):
            for origin in [given, *source.origins.of(given)]:
                found = self._layer(source, origin) if isinstance(origin, ast.Call) else ""
                if found := found or self._layer_in(source, origin):
                    return found
        return ""

    def _hidden(self, source: Source, name: str, value: ast.expr, layer: str, kind: str) -> Finding:
        container = "nn.ModuleDict" if kind == "dict" else "nn.ModuleList"
        if layer == "Parameter":
            container = container.replace("Module", "Parameter")
        return self.at(
            source,
            value,
            what=f"the plain {kind} self.{name} holds {layer}, unknown to the module",
            cause=(
                "its parameters are not in parameters(): the optimizer never updates them, "
                ".to(device) leaves them behind, and state_dict() does not save them"
            ),
            fix=f"use {container} for self.{name}",
            remedy=self._remedy(source, value, container),
        )

    def _remedy(self, source: Source, value: ast.expr, container: str) -> Fix | None:
        nn = next((a for a, full in source.aliases.items() if full == "torch.nn"), None)
        torch = next((a for a, full in source.aliases.items() if full == "torch"), None)
        prefix = nn or (f"{torch}.nn" if torch else None)
        plain = isinstance(value, ast.List | ast.Dict | ast.ListComp | ast.DictComp)
        if prefix is None or not plain:
            return None
        if isinstance(value, ast.Dict) and not all(
            isinstance(k, ast.Constant) and isinstance(k.value, str) for k in value.keys
        ):
            return None
        text = source.segment(value) if _filled(value) else ""
        return edit_fix(
            replace_node(source, value, f"{container.replace('nn', prefix, 1)}({text})")
        )

    def _loose(self, source: Source, name: str, value: ast.expr) -> Finding:
        return self.at(
            source,
            value,
            what=f"the attribute self.{name} is a tensor with requires_grad, and no nn.Parameter",
            cause=(
                "it is not in parameters(): the optimizer never updates it, .to(device) leaves it "
                "behind, and state_dict() does not save it"
            ),
            fix=f"make self.{name} an nn.Parameter",
        )


def _elements(value: ast.expr) -> list[ast.expr]:
    """Return what a list, a dict or a comprehension is made of."""
    if isinstance(value, ast.List | ast.Tuple):
        return value.elts
    if isinstance(value, ast.Dict):
        return value.values
    if isinstance(value, ast.ListComp | ast.GeneratorExp):
        return [value.elt]
    return [value.value] if isinstance(value, ast.DictComp) else []


def _put_into(node: ast.AST, key: str) -> Iterator[ast.expr]:
    """Yield what is appended to a list, or put into a dict, anywhere in a class."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            adds = part.func.attr in {"append", "extend", "insert"}
            if adds and dotted(part.func.value) == key and part.args:
                yield part.args[-1]
        elif isinstance(part, ast.Assign):
            for target in part.targets:
                if isinstance(target, ast.Subscript) and dotted(target.value) == key:
                    yield part.value


def _is_passed_on(node: ast.AST, key: str) -> bool:
    """Tell whether a list goes whole into a call, such as that of ModuleList."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and dotted(part.func) not in READING:
            given = [*part.args, *(k.value for k in part.keywords)]
            plain = [g.value if isinstance(g, ast.Starred) else g for g in given]
            if any(dotted(g) == key for g in plain):
                return True
    return False


def _target(found: Definition) -> ast.expr | None:
    node = found.node
    if isinstance(node, ast.Assign):
        return node.targets[0]
    return node.target if isinstance(node, ast.AnnAssign) else None


def _container(value: ast.expr) -> str:
    if isinstance(value, ast.List | ast.Tuple | ast.ListComp | ast.BinOp):
        return "list"
    if isinstance(value, ast.Dict | ast.DictComp):
        return "dict"
    if isinstance(value, ast.Call):
        name = dotted(value.func)
        if name in {"list", "tuple"}:
            return "list"
        if name in {"dict", "OrderedDict", "collections.OrderedDict"}:
            return "dict"
        return "tensor"
    return ""


def _filled(value: ast.expr) -> bool:
    if isinstance(value, ast.List | ast.Tuple):
        return bool(value.elts)
    if isinstance(value, ast.Dict):
        return bool(value.keys)
    return not (isinstance(value, ast.Call) and not value.args)


def _is_loose_tensor(source: Source, value: ast.expr) -> bool:
    return (
        isinstance(value, ast.Call)
        and source.qualname(value.func).startswith("torch.")
        and source.called(value) != "Parameter"
        and is_constant(keyword(value, "requires_grad"), True)  # noqa: FBT003
    )


def _owns(source: Source, info: ClassInfo) -> bool:
    """Tell whether a module of the file makes layers or parameters of its own."""
    for each in source.origins.ancestors(info):
        for node in ast.walk(each.node):
            if isinstance(node, ast.Call):
                name = source.called(node)
                if name == "Parameter" or name in LAYERS - PARAMETERLESS:
                    return True
    return False
