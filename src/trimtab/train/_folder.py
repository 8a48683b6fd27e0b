"""The run folder: what is in it, how it is made, and how a run in it is found again."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trimtab.checkpoint import list_checkpoints, write_atomic
from trimtab.engine import RUNS
from trimtab.errors import ConfigError


class RunFolder:
    """Paths of one run.

    Args:
        path: The folder; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.config: Final = path / "config.toml"
        self.metrics: Final = path / "metrics.csv"
        self.checkpoints: Final = path / "checkpoints"
        self.incidents: Final = path / "incidents"
        self.summary: Final = path / "summary.json"
        self.curves: Final = path / "curves.png"

    def create(self, config: str) -> None:
        """Make the folder with its settings.

        Raises:
            ConfigError: It holds something already, or cannot be made.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            way_out = "Pass --resume to go on with it, or" if self.config.exists() else "Pass"
            raise ConfigError(
                f"{self.path} is not empty, and nothing is ever overwritten. {way_out} another "
                f"--out."
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomic(self.config, config.encode())
        except OSError as error:
            raise ConfigError(
                f"Cannot write the run folder {self.path}: {error.strerror}. Pass another --out."
            ) from error

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_atomic(self.summary, (to_json(summary, indent=2) + "\n").encode())

    def read_summary(self) -> dict[str, Any] | None:
        """Return the summary of a run that ended; None before that."""
        if not self.summary.exists():
            return None
        summary: dict[str, Any] = json.loads(self.summary.read_text(encoding="utf-8"))
        return summary


def to_json(summary: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return strict JSON: NaN and infinity, which it cannot hold, become null."""
    finite = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in summary.items()
    }
    return json.dumps(finite, indent=indent, allow_nan=False)


def newest_folder(recipe: str) -> Path:
    """Return the latest run folder of a recipe that has a checkpoint.

    Raises:
        ConfigError: There is none.
    """
    found = [p for p in RUNS.glob(f"{recipe}-*") if list_checkpoints(RunFolder(p).checkpoints)]
    if not found:
        raise ConfigError(
            f"There is no run of {recipe} with a checkpoint under {RUNS}/. Name the run to go on "
            "with: --resume --out DIR."
        )
    return max(found, key=lambda p: p.stat().st_mtime)
