"""Finds the run that somebody means who names none."""

from pathlib import Path
from typing import Final

from trimtab.errors import ConfigError

MARKS: Final = ("metrics.csv", "signals")
"""One of these is in every run folder."""


def newest_run(folder: Path = Path("runs")) -> Path:
    """Return the run folder under `folder` that was written to last.

    Raises:
        ConfigError: There is none.
    """
    found = [p for p in folder.glob("*") if any((p / mark).exists() for mark in MARKS)]
    if not found:
        raise ConfigError(
            f"There is no run under {folder}/. Name the run's folder, or train one with: "
            "trimtab train."
        )
    return max(found, key=_written)


def _written(run: Path) -> float:
    """Return when one of the run's files was written last."""
    return max((p.stat().st_mtime for p in (run, *run.glob("*"))), default=0.0)
