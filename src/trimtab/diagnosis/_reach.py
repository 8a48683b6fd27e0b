"""What a loop body has hold of beside what it is given: schedules, loss scalers, other models."""

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import CodeType
from typing import Any, Final

from torch import nn

FOREIGN: Final = frozenset({"torch", "trimtab", "contextlib"})
"""Packages whose code is not the user's."""
INSTALLED: Final = ("site-packages", "dist-packages")
"""Folders of other packages, likewise."""


def is_own(module: str, file: str) -> bool:
    """Tell whether code is the user's: not torch's, nor ours, nor of another installed package."""
    package = module.partition(".")[0]
    return package not in FOREIGN and not any(part in file for part in INSTALLED)


def reachable(function: Any) -> list[Any]:
    """Return what a function can use: its closure, defaults, the globals that it names, its object.

    Other functions of the user's, containers and plain objects among these are looked into once.

    Args:
        function: A function, method, `functools.partial`, or an object that can be called.
    """
    found: dict[int, Any] = {}
    _collect(function, found)
    return list(found.values())


def stateful(function: Any, known: Sequence[object] = ()) -> list[Any]:
    """Return what a function has hold of that has a state to put back, without what is known.

    That is whatever has `state_dict` and `load_state_dict`; parts of modules that are there as a
    whole are left out.
    """
    own = [
        v
        for v in reachable(function)
        if not (inspect.isclass(v) or inspect.ismodule(v))
        and callable(getattr(v, "state_dict", None))
        and callable(getattr(v, "load_state_dict", None))
    ]
    wholes = [v for v in [*known, *own] if isinstance(v, nn.Module)]
    parts = {id(m) for whole in wholes for m in whole.modules() if m is not whole}
    without = parts | {id(v) for v in known}
    return [v for v in own if id(v) not in without]


def _collect(thing: Any, found: dict[int, Any]) -> None:
    for value in _held(thing):
        if id(value) in found or value is None:
            continue
        found[id(value)] = value
        if _is_function(value):
            _collect(value, found)
        else:
            for part in _parts(value):
                if id(part) not in found:
                    found[id(part)] = part
                    if _is_function(part):
                        _collect(part, found)


def _held(thing: Any) -> Iterator[Any]:
    """Yield what something that can be called refers to."""
    if isinstance(thing, functools.partial):
        yield from thing.args
        yield from thing.keywords.values()
        yield thing.func
    elif inspect.ismethod(thing):
        yield thing.__self__
        yield thing.__func__
    elif inspect.isfunction(thing) and inspect.isfunction(inspect.unwrap(thing)):
        plain: Any = inspect.unwrap(thing)
        yield from getattr(plain, "__defaults__", None) or ()
        yield from (getattr(plain, "__kwdefaults__", None) or {}).values()
        for cell in plain.__closure__ or ():
            with suppress(ValueError):  # a variable that is not set yet
                yield cell.cell_contents
        outer = plain.__globals__
        yield from (outer[name] for name in _names(plain.__code__) if name in outer)
    elif thing is not None and callable(thing):
        yield thing
        yield type(thing).__call__


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code and the functions inside of it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_function(value: Any) -> bool:
    if isinstance(value, functools.partial):
        return True
    if not (inspect.isfunction(value) or inspect.ismethod(value)):
        return False
    code = getattr(inspect.unwrap(value), "__code__", None)
    return code is not None and is_own(str(value.__module__), code.co_filename)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if inspect.ismodule(value) or inspect.isclass(value) or isinstance(value, nn.Module):
        return []
    return list(getattr(value, "__dict__", {}).values())
