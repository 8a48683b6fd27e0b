"""Rules of others: modules that register their own when they are imported."""

import functools
import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from trimtab.errors import ConfigError

GROUP: Final = "trimtab.rules"
"""Entry points of installed packages that hold rules."""


def import_plugins(modules: Sequence[str], *, beside: Path | None = None) -> None:
    """Import modules that register rules.

    Args:
        modules: Dotted names.
        beside: Folder whose modules, and those of its `src`, are found as well.

    Raises:
        ConfigError: One cannot be imported.
    """
    folders = [] if beside is None else [str(beside), str(beside / "src")]
    for module in modules:
        try:
            with _reachable(folders):
                importlib.import_module(module)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"The plugin {module!r} cannot be imported: {type(error).__name__}: {error}. "
                "Name a module with rules that is installed, or that lies beside pyproject.toml "
                "or in its src."
            ) from error


@contextmanager
def _reachable(folders: Sequence[str]) -> Iterator[None]:
    """Let modules be found in these folders, after all others."""
    added = [f for f in folders if f not in sys.path]
    sys.path.extend(added)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


@functools.cache
def import_installed() -> None:
    """Import the rules of installed packages, once; one that is broken is left out and named."""
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001 # somebody else's package must not end a run
            warnings.warn(
                f"The rules of {point.value} are left out: {type(error).__name__}: {error}. "
                "Repair or remove the package that brings them.",
                UserWarning,
                stacklevel=2,
            )
