"""A recorded run as plain arrays: what every view of it starts from."""

import importlib.util
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from trimtab.report._series import FloatArray, IntArray
from trimtab.signals import Run, load_run

Backend = Literal["polars", "pandas"]
FAMILIES: Final = {"parameter": "parameters", "module": "modules"}
"""Family of signals to its table."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What was measured of every layer; rows in the order of the model."""

    sites: tuple[str, ...]
    steps: IntArray
    values: Mapping[str, FloatArray]
    """Signal to `(num_sites, num_steps)`; NaN where there is no value."""
    recorded: npt.NDArray[np.bool_]
    """Where there is a record at all, `(num_sites, num_steps)`."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What was measured of every step."""

    steps: IntArray
    values: Mapping[str, FloatArray]

    def get(self, signal: str) -> FloatArray:
        """Return a signal; all NaN if it was not measured."""
        missing = np.full(len(self.steps), np.nan)
        return self.values.get(signal, missing)

    def has(self, signal: str) -> bool:
        """Return whether a signal has any finite value."""
        return bool(np.isfinite(self.get(signal)).any())

    @property
    def skipped(self) -> npt.NDArray[np.bool_]:
        """Whether each step was skipped."""
        flags: npt.NDArray[np.bool_] = np.nan_to_num(self.get("step.skipped")) > 0
        return flags

    @property
    def clipped(self) -> npt.NDArray[np.bool_]:
        """Whether each step was clipped."""
        flags: npt.NDArray[np.bool_] = self.get("gradient.clip_coefficient") < 1
        return flags & ~self.skipped

    @property
    def broken(self) -> npt.NDArray[np.bool_]:
        """Whether each step's loss is not finite, among losses that were given."""
        loss = self.get("loss")
        given = np.isfinite(loss).any() or self.skipped.any()
        flags: npt.NDArray[np.bool_] = ~np.isfinite(loss) & bool(given)
        return flags if self.has("loss") else flags & (np.isinf(loss) | self.skipped)


@dataclass(frozen=True)
class RunData:
    """Everything that was recorded of a run, read when it is asked for.

    Args:
        run: As `load_run` returns it.
    """

    run: Run

    @classmethod
    def load(cls, path: Path) -> "RunData":
        """Read a run folder.

        Raises:
            ConfigError: It holds no run.
        """
        return cls(load_run(path))

    @property
    def name(self) -> str:
        """What the run is called: by its own words, or by its folder."""
        return str(self.info.get("name") or self.run.path.resolve().name)

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the writer was given, as far as it was."""
        return dict(self.run.info or {})

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The results of a `trimtab train` that ended; empty otherwise, and for a resumed one."""
        path, metrics = self.run.path / "summary.json", self.run.path / "metrics.csv"
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            stale = metrics.exists() and metrics.stat().st_mtime > path.stat().st_mtime
        except (OSError, ValueError):
            return {}
        return summary if isinstance(summary, dict) and not stale else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings: the run's own words, or the file that `trimtab train` leaves."""
        if self.info.get("config"):
            return dict(self.info["config"])
        try:
            return tomllib.loads((self.run.path / "config.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come: the run was concluded, or its writer closed."""
        if self.summary:
            return True
        if (self.run.path / "metrics.csv").exists():
            return False
        segments = list((self.run.path / "signals").glob("*-*.*"))
        return bool(segments) and not any(p.suffix == ".arrows" for p in segments)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What happened at single steps, in order."""
        return sorted(self.run.events(), key=lambda event: event.get("step", 0))

    @cached_property
    def steps(self) -> Steps:
        """The numbers of each step."""
        columns = read_columns(self.run, "steps")
        steps = columns.pop("step", np.zeros(0)).astype(np.int64)
        values = {k: v.astype(np.float64) for k, v in columns.items() if k != "site"}
        elapsed = values.pop("seconds", None)  # of a metrics.csv, since the start of the run
        if elapsed is not None and "step.seconds" not in values:
            values["step.seconds"] = np.diff(elapsed, prepend=np.nan)
        return Steps(steps=steps, values=values)

    @cached_property
    def layers(self) -> dict[str, Layers]:
        """The numbers of each layer by family, `"parameter"` and `"module"`; only what there is."""
        sites = self.info.get("sites") or {}
        found = {
            family: arrange(read_columns(self.run, table), sites.get(table) or ())
            for family, table in FAMILIES.items()
        }
        return {family: layers for family, layers in found.items() if layers is not None}


def read_columns(run: Run, table: str) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a table; none if it was not recorded."""
    backend: Backend = "polars" if importlib.util.find_spec("polars") else "pandas"
    frame = run.table(table, backend=backend)
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def arrange(columns: Mapping[str, npt.NDArray[Any]], order: Iterable[str]) -> Layers | None:
    """Turn rows of (step, site, values...) into a matrix for each signal; None without rows.

    Args:
        columns: Of equal length.
        order: Of the sites; others come after these, as they are met.
    """
    if "site" not in columns or not len(columns["step"]):
        return None
    names = [str(site) for site in columns["site"]]
    present = dict.fromkeys(names)
    sites = [site for site in order if site in present]
    sites += [site for site in present if site not in set(sites)]
    place = {site: i for i, site in enumerate(sites)}
    rows = np.array([place[name] for name in names])
    steps, slots = np.unique(columns["step"].astype(np.int64), return_inverse=True)
    shape = (len(sites), len(steps))
    recorded = np.zeros(shape, bool)
    recorded[rows, slots] = True
    values = {}
    for name, column in columns.items():
        if name not in {"step", "site"} and column.dtype.kind in "fiub":
            values[name] = np.full(shape, np.nan)
            values[name][rows, slots] = column
    return Layers(sites=tuple(sites), steps=steps, values=values, recorded=recorded)
