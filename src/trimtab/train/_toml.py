"""Recipe settings as TOML: read with every key checked, written so that they read back the same."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from trimtab.errors import ConfigError

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a settings file.

    Raises:
        ConfigError: It is missing, no text, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the settings file {path}: {error.strerror}.") from error
    except ValueError as error:  # also UnicodeDecodeError and TOMLDecodeError
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error


def apply_settings(config: T, settings: Mapping[str, Any], where: str) -> T:
    """Return `config` with the settings of a TOML table in place of its own.

    Args:
        config: A dataclass of values and further dataclasses.
        settings: Keys are field names; tables are the further dataclasses.
        where: Named in messages, such as the file's name.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type, or the dataclass refuses it.
    """
    hints = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in hints:
            raise ConfigError(f"{where} has an unknown key {key!r}. {suggest(key, hints)}")
        old = getattr(config, key)
        if is_dataclass(old):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {key} must be a table, [{key}], got {value!r}.")
            changes[key] = apply_settings(old, value, f"{where} [{key}]")
        else:
            changes[key] = _convert(value, hints[key], f"{where}: {key}")
    values = {f.name: getattr(config, f.name) for f in fields(config)}  # type: ignore[arg-type]
    try:
        return type(config)(**{**values, **changes})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(value: object, kind: Any, where: str) -> object:
    """Return `value` as the field's type.

    Raises:
        ConfigError: It has another type.
    """
    if get_origin(kind) in (Union, UnionType, Literal):
        options = get_args(kind)
        for option in options:
            try:
                return _convert(value, option, where)
            except ConfigError:
                continue
        names = ", ".join(str(getattr(o, "__name__", o)) for o in _choices(kind))
        raise ConfigError(f"{where} must be one of {names}, got {value!r}.")
    if isinstance(kind, str):  # a choice of a Literal
        if value == kind:
            return value
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(kind, type) and type(value) is kind:
        return value
    raise ConfigError(f"{where} must be {getattr(kind, '__name__', kind)}, got {value!r}.")


def _choices(kind: Any) -> list[object]:
    if get_origin(kind) in (Union, UnionType, Literal):
        return [c for option in get_args(kind) for c in _choices(option)]
    return [] if kind is type(None) else [kind]


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest known word, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known are: {', '.join(known)}."


def to_toml(config: object, *, recipe: str) -> str:
    """Return settings as TOML text; a setting that is None is left out."""
    import tomlkit

    document = tomlkit.document()
    document.add("recipe", tomlkit.item(recipe))
    for name, value in to_plain(config).items():
        document.add(name, tomlkit.item(value))
    return tomlkit.dumps(document)


def to_plain(config: object) -> dict[str, Any]:
    """Return settings as nested dictionaries that TOML and JSON can hold; None is left out."""
    plain: dict[str, Any] = {}
    for field in fields(config):  # type: ignore[arg-type] # any dataclass
        value = getattr(config, field.name)
        if is_dataclass(value):
            plain[field.name] = to_plain(value)
        elif isinstance(value, Path):
            plain[field.name] = str(value)
        elif value is not None:
            plain[field.name] = value
    return plain
