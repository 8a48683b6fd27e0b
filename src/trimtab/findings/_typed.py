"""A value of a settings file as the type that a field wants."""

import math
from collections.abc import Iterable
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from trimtab.errors import ConfigError

WORDS: Final = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "a text",
    tuple: "a list",
    type(None): "left out",
}


def typed(value: object, kind: Any, where: str) -> object:
    """Return `value` as `kind`.

    A whole number becomes a float and a list a tuple where that is wanted. NaN is refused:
    a threshold that compares with nothing would switch its rule off without saying so.

    Args:
        value: As TOML or JSON give it.
        kind: `bool`, `int`, `float`, `str`, a tuple of one type, a `Literal`, or a union of them.
        where: Named in messages, such as `"max_share"`.

    Raises:
        ConfigError: It has another type.
    """
    found = _fit(value, kind)
    if found is _MISFIT:
        raise ConfigError(f"{where} must be {' or '.join(_words(kind))}, got {value!r}.")
    return found


_MISFIT: Final = object()


def _fit(value: object, kind: Any) -> object:
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        fits = (_fit(value, option) for option in args)
        return next((f for f in fits if f is not _MISFIT), _MISFIT)
    if origin is Literal:
        same = (option for option in args if type(option) is type(value) and option == value)
        return next(same, _MISFIT)
    if (origin or kind) is tuple and isinstance(value, list | tuple):
        items = [_fit(item, args[0]) for item in value] if args else list(value)
        return _MISFIT if any(item is _MISFIT for item in items) else tuple(items)
    if kind is float and type(value) in {int, float}:
        number = float(value)  # type: ignore[arg-type] # just looked at
        return _MISFIT if math.isnan(number) else number
    return value if isinstance(kind, type) and type(value) is kind else _MISFIT


def _words(kind: Any) -> Iterable[str]:
    """Yield what a value may be, in words."""
    origin = get_origin(kind)
    if origin in {Union, UnionType}:
        for option in get_args(kind):
            yield from _words(option)
    elif origin is Literal:
        yield from (repr(option) for option in get_args(kind))
    else:
        yield WORDS.get(origin or kind, getattr(kind, "__name__", str(kind)))
