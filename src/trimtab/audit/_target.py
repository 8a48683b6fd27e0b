"""MODULE:FUNCTION as a command line names it, imported from where the user stands."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from trimtab.errors import ConfigError


def import_function(target: str) -> Callable[..., Any]:
    """Return the function that a text such as `train:build` or `path/train.py:build` names.

    Modules are found as `python -m` finds them: from the current folder first. A file is run as a
    module of its own name, with its folder first.

    Args:
        target: Module or file, a colon, and the function; `pkg.mod:Class.method` works too.

    Raises:
        ConfigError: There is no such module, file or function, or importing it fails.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ConfigError(
            f"{target!r} does not name a function. Write MODULE:FUNCTION, such as train:build, or "
            "FILE:FUNCTION, such as scripts/train.py:build."
        )
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise ConfigError(f"{place} has no {part!r}. {_near(part, value)}")
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(f"{target} is a {type(value).__name__}, not a function.")
    return value  # type: ignore[no-any-return] # just looked at


def _from_name(name: str) -> ModuleType:
    """Import a module, from the current folder first.

    Raises:
        ConfigError: It is not there, or fails.
    """
    _first_on_path(Path.cwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            known = [p.stem for p in Path.cwd().glob("*.py")]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"There is no module {name!r} here ({Path.cwd()}) or installed. {hint}A file is "
                "named by its path, such as scripts/train.py:build."
            ) from error
        raise ConfigError(_failed(name, error)) from error
    except Exception as error:
        raise ConfigError(_failed(name, error)) from error


def _from_file(path: Path) -> ModuleType:
    """Run a file as a module.

    Raises:
        ConfigError: It is not there, or fails.
    """
    if not path.is_file():
        known = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, known, n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"There is no file {path}.{hint}")
    _first_on_path(path.resolve().parent)
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path.resolve()):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise ConfigError(_failed(str(path), error)) from error
    return module


def _failed(name: str, error: BaseException) -> str:
    return f"Importing {name} fails: {type(error).__name__}: {error}."


def _first_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _near(name: str, owner: Any) -> str:
    known = [n for n, v in vars(owner).items() if callable(v) and not n.startswith("_")]
    own = [n for n in known if getattr(getattr(owner, n), "__module__", "") == owner.__name__]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Functions there: {', '.join(sorted(own or known)) or 'none'}."
