"""Finds and reads a project's own settings: `[tool.trimtab]` of its `pyproject.toml`."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError


def project_table(start: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """Return the nearest file that has the table, and the table; None if there is none.

    Nothing above the root of a Git repository is read.

    Args:
        start: A folder of the project, or a file in one.

    Raises:
        ConfigError: A file on the way is no TOML, or what it has is no table.
    """
    for path in _candidates(start.resolve()):
        table = _read(path)
        if table is not None:
            return path, table
    return None


def _candidates(start: Path) -> Iterator[Path]:
    """Yield each `pyproject.toml` from here up to the root of the repository."""
    for folder in [start, *start.parents]:
        path = folder / "pyproject.toml"
        if path.is_file():
            yield path
        if (folder / ".git").exists():
            return


def _read(path: Path) -> Mapping[str, Any] | None:
    """Return the table of a file; None without one.

    Raises:
        ConfigError: The file is no TOML, or what it has is no table.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:  # also UnicodeDecodeError and TOMLDecodeError
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error
    tool = content.get("tool", {})
    table = tool.get("trimtab") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"{path}: tool.trimtab must be a table, got {table!r}.")
    return table
