"""The tensors that a function was given without arguments: its batch, as a rule."""

import functools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.guard._frozen import DEPTH, LARGEST, Frozen, home_of, value_of
from trimtab.guard._reads import Read, reads_of

_NOTHING: Final = object()

_BUFFERS: Final[weakref.WeakKeyDictionary[nn.Module, list[weakref.ref[Tensor]]]] = (
    weakref.WeakKeyDictionary()
)


def captured(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the batch of a function that takes none: the tensors that it finds in its variables.

    In the order of their first use, so that `lambda: loss_fn(model(x), y)` gives `x`, then `y`.
    Parameters, buffers, modules, functions, and what a graph leads to are left out; of nested
    values what can be saved is kept.

    Args:
        function: A function, lambda, `functools.partial`, bound method or what `freeze` returned.

    Returns:
        Tensors, and dictionaries, lists and tuples of tensors, by the name of the variable;
        arguments of a partial by their place, as "0", or their keyword.
    """
    walk = _Walk(function)
    walk.visit(function)
    buffers = [b for m in walk.modules for b in _buffers(m)]
    return {name: v for name, v in walk.found.items() if not any(v is b() for b in buffers)}


def _buffers(module: nn.Module) -> list[weakref.ref[Tensor]]:
    """Return references to a module's buffers: as they were first seen, for walks take long."""
    if module not in _BUFFERS:
        _BUFFERS[module] = [weakref.ref(b) for b in module.buffers()]
    return _BUFFERS[module]


class _Walk:
    """One way through a function and those of its module that it calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.found: dict[str, Any] = {}
        self.modules: list[nn.Module] = []
        self._home = home_of(function)
        self._seen: set[Any] = set()
        self._called: list[tuple[Any, Any]] = []
        self._held: dict[tuple[int, str], Any] = {}
        self._contents: dict[int, Any] = {}

    def visit(self, function: Any) -> None:
        """Look at what a callable finds in its variables."""
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        if isinstance(function, Frozen):
            self._held |= {(id(o), name): v for o, name, v in function.attributes}
            self._contents |= {id(c): items for c, items in function.contents}
            self.visit(function.function)
        elif isinstance(function, functools.partial):
            for i, v in enumerate(function.args):
                self._note(str(i), v)
            for name, v in function.keywords.items():
                self._note(name, v)
            self.visit(function.func)
        elif isinstance(function, MethodType):
            if isinstance(function.__func__, FunctionType):
                self._visit_function(function.__func__, owner=function.__self__)
        elif isinstance(function, FunctionType) and self._is_at_home(function):
            self._visit_function(function)

    def _is_at_home(self, function: FunctionType) -> bool:
        return function.__globals__ is self._home

    def _visit_function(self, function: FunctionType, owner: Any = None) -> None:
        first = function.__code__.co_varnames[:1]
        for read in reads_of(function.__code__):
            is_owner = owner is not None and read.kind == "local" and (read.name,) == first
            value = owner if is_owner else value_of(function, read)
            if read.attribute is not None:
                self._attribute(value, read)
            else:
                self._note(read.name, value)
        # What it calls comes last: arguments are ready before a function begins.
        called, self._called = self._called, []
        for inner, its_owner in called:
            if its_owner is None:
                self.visit(inner)
            else:
                self._visit_function(inner, its_owner)

    def _attribute(self, owner: Any, read: Read) -> None:
        """Look at one attribute of an object, or at its method."""
        own = getattr(owner, "__dict__", None)
        if isinstance(owner, Tensor):  # x.float()
            self._note(read.name, owner)
        elif own is None or isinstance(owner, ModuleType | type):
            return
        elif read.attribute in own:
            name = str(read.attribute)
            value = self._held.get((id(owner), name), own[name])
            self._note(f"{read.name}.{name}", value)
        else:
            if isinstance(owner, nn.Module):
                self.modules.append(owner)
            method = getattr(type(owner), str(read.attribute), None)
            key = (id(owner), read.attribute)
            if (
                isinstance(method, FunctionType)
                and key not in self._seen
                and self._is_at_home(method)
            ):
                self._seen.add(key)
                self._called.append((method, owner))

    def _note(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            self.modules.append(value)
        elif isinstance(value, FunctionType | MethodType | functools.partial | Frozen):
            self._called.append((value, None))
        else:
            found = _batch_like(value, DEPTH, self._contents)
            if found is not _NOTHING and _has_tensor(found):
                self.found.setdefault(name, found)


def _batch_like(value: Any, depth: int, contents: Mapping[int, Any]) -> Any:
    """Return a value without what is not part of a batch; `_NOTHING` if it is none itself."""
    if isinstance(value, Tensor):
        plain = type(value) is Tensor or not isinstance(value, nn.Parameter)
        return value if plain and value.grad_fn is None else _NOTHING
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        plain = value.dtype.kind in "biufc"
        return torch.from_numpy(value if value.flags.writeable else value.copy()) if plain else None
    value = contents.get(id(value), value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name, None) for f in fields(value)}
    if depth == 0 or not isinstance(value, Mapping | list | tuple) or len(value) > LARGEST:
        return _NOTHING
    if isinstance(value, Mapping):
        items = {k: _batch_like(v, depth - 1, contents) for k, v in value.items()}
        return {k: v for k, v in items.items() if v is not _NOTHING}
    parts = [_batch_like(v, depth - 1, contents) for v in value]
    parts = [None if v is _NOTHING else v for v in parts]
    return tuple(parts) if isinstance(value, tuple) else parts


def _has_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_tensor(v) for v in value.values())
    if isinstance(value, list | tuple):
        return any(_has_tensor(v) for v in value)
    return isinstance(value, Tensor)
