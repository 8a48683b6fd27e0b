"""The reader of measured signals: a run folder as tables, also while it is written."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np

from trimtab.errors import ConfigError
from trimtab.signals._events import read_events
from trimtab.signals._metrics_csv import join_metrics, read_metrics_csv
from trimtab.signals._optional import require
from trimtab.signals._segments import (
    FOLDER,
    Part,
    Segment,
    arrow,
    current,
    folder_bytes,
    list_segments,
    read_part,
)

Backend = Literal["polars", "pandas"]
_T = TypeVar("_T")

FAMILY_OF: Final = {
    "steps": "step",
    "parameters": "parameter",
    "modules": "module",
    "histograms": "histogram",
}
"""Tables that every run may have, and what one row of each is measured of."""


def load_run(path: str | Path) -> "Run":
    """Open the folder of a run: of one that was watched, or of `trimtab train`.

    Nothing is read yet but the run's description. The run may still be going on.

    Args:
        path: The run's folder.

    Raises:
        ConfigError: There is no run in it, or pyarrow is missing.
    """
    arrow()
    path = Path(path)
    if path.name == FOLDER and _is_run(path.parent):
        path = path.parent
    if not path.is_dir():
        reason = "is a file" if path.exists() else "does not exist"
        raise ConfigError(f"The run folder {path} {reason}. Pass the folder of a run.")
    if not _is_run(path):
        raise ConfigError(
            f"{path} is not the folder of a run: it has neither {FOLDER}/info.json nor "
            f"metrics.csv. {_suggest(path)}"
        )
    return Run(path)


def _is_run(path: Path) -> bool:
    return (path / "metrics.csv").is_file() or (path / FOLDER / "info.json").is_file()


def _suggest(path: Path) -> str:
    runs = [child for child in path.iterdir() if child.is_dir() and _is_run(child)]
    if not runs:
        return "Pass the folder that the run was told to write to."
    newest = max(runs, key=lambda run: run.stat().st_mtime)
    return f"Pass one of the {len(runs)} runs in it, of which {newest} is the newest."


class Run:
    """What a run has measured. Every call reads what is there at that moment.

    Use `load_run`, which checks the folder.

    Attributes:
        path: The run's folder.
        info: What the run said of itself.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._folder: Final = path / FOLDER
        self._metrics: Final = path / "metrics.csv"
        info = self._folder / "info.json"
        self.info: Final[dict[str, Any]] = (
            json.loads(info.read_text(encoding="utf-8")) if info.exists() else {}
        )

    def table(self, name: str = "all", *, backend: Backend = "polars") -> Any:
        """Return one table.

        `"steps"` has a row for each step; `"parameters"`, `"modules"` and `"histograms"` have
        one for each step and site; each has one column a signal. `"all"` is long: step,
        family, site (empty where there is none), signal and value, ordered by family, signal and
        step, without histograms. What was not measured is null in a wide table and absent from
        the long one; what was measured as NaN is NaN.

        Steps that a resumed run repeated come from the later session.

        Args:
            name: The table.
            backend: What kind of data frame to return.

        Raises:
            ConfigError: There is no such table, or the backend is not installed.
        """
        if backend not in {"polars", "pandas"}:
            raise ConfigError(f"backend must be 'polars' or 'pandas', got {backend!r}.")
        frames = require(backend, f"table(backend={backend!r})")
        rows = self._long() if name == "all" else self._wide(name)
        return frames.from_arrow(rows) if backend == "polars" else rows.to_pandas()

    @property
    def tables(self) -> list[str]:
        """Names of the tables that have rows."""
        found = {segment.table for segment in self._segments()}
        if self._metrics.exists():
            found.add("steps")
        known = [name for name in FAMILY_OF if name in found]
        return known + sorted(found - FAMILY_OF.keys())

    def sites(self, table: str) -> list[str]:
        """Return the sites of a table in the order in which they were first measured.

        Raises:
            ConfigError: There is no such table.
        """
        rows = self._wide(table, ["site"])
        if "site" not in rows.column_names:
            return []
        return [site for site in rows["site"].unique().to_pylist() if site is not None]

    @property
    def last_step(self) -> int | None:
        """The newest step; None if there is none yet."""
        steps = [self._wide(name, ["step"])["step"].to_numpy() for name in self.tables]
        return max((int(s.max()) for s in steps if len(s)), default=None)

    @property
    def num_bytes(self) -> int:
        """What the signals take on the disk."""
        return folder_bytes(self._folder) if self._folder.is_dir() else 0

    def events(self) -> list[dict[str, Any]]:
        """Return what was noted, in the order of writing; `step` and `kind` are always there.

        An event of a step that a later session repeated has `superseded` set.
        """
        events = read_events(self._folder / "events.jsonl")
        if not events:
            return []
        starts = _starts(self._retry(lambda: self._parts(None)))
        for event in events:
            limit = _limit(starts, event.pop("session", 0))
            if limit is not None and event["step"] >= limit:
                event["superseded"] = True
        return events

    def _segments(self) -> list[Segment]:
        return list_segments(self._folder) if self._folder.is_dir() else []

    def _parts(self, name: str | None, columns: list[str] | None = None) -> list[Part]:
        """Read the rows of one table, and of all others no more than the labels."""
        found = (
            read_part(segment, columns if segment.table == name else [])
            for segment in self._segments()
        )
        return current(part for part in found if part is not None)

    def _retry(self, read: Callable[[], _T]) -> _T:
        """Read again if the writer has meanwhile thinned a segment away."""
        for _ in range(20):
            try:
                return read()
            except FileNotFoundError:
                time.sleep(0.01)
        return read()

    def _wide(self, name: str, columns: list[str] | None = None) -> Any:
        rows = self._retry(lambda: self._read(name, columns))
        if name == "steps" and self._metrics.exists():
            metrics = read_metrics_csv(self._metrics)
            return metrics if rows is None else join_metrics(rows, metrics)
        if rows is not None:
            return rows
        if name not in FAMILY_OF:
            there = ", ".join(map(repr, ["all", *self.tables]))
            raise ConfigError(f"{self.path} has no table {name!r}. It has {there}.")
        pa = arrow()
        site = {} if name == "steps" else {"site": pa.array([], pa.string()).dictionary_encode()}
        return pa.table({"step": pa.array([], pa.int64()), **site})

    def _read(self, name: str, columns: list[str] | None) -> Any:
        """Return the rows of one table, without those that a later session repeated, or None."""
        pa = arrow()
        found = self._parts(name, columns and list(dict.fromkeys(["step", *columns])))
        starts = _starts(found)
        parts = []
        for part in found:
            rows, limit = part.rows, _limit(starts, part.label.session)
            if rows is None:
                continue
            if limit is not None:
                rows = rows.filter(pa.array(rows["step"].to_numpy() < limit))
            parts.append(rows.replace_schema_metadata())
        if not parts:
            return None
        return pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()

    def _long(self) -> Any:
        """Return all signals but those with bins, one value a row."""
        pa = arrow()
        parts = []
        for name in self.tables:
            rows = self._wide(name)
            family = _constant(FAMILY_OF.get(name, name), len(rows))
            site = rows["site"] if "site" in rows.column_names else _constant("", len(rows))
            for signal in rows.column_names:
                values = rows[signal]
                if not pa.types.is_floating(values.type):
                    continue
                part = pa.table(
                    {
                        "step": rows["step"],
                        "family": family,
                        "site": site,
                        "signal": _constant(signal, len(rows)),
                        "value": values.cast(pa.float64()),
                    }
                )
                parts.append(part.filter(values.is_valid()) if values.null_count else part)
        if not parts:
            parts = [
                pa.table(
                    {
                        "step": pa.array([], pa.int64()),
                        "family": _constant("", 0),
                        "site": _constant("", 0),
                        "signal": _constant("", 0),
                        "value": pa.array([], pa.float64()),
                    }
                )
            ]
        return pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()


def _constant(text: str, length: int) -> Any:
    pa = arrow()
    return pa.DictionaryArray.from_arrays(np.zeros(length, np.int32), pa.array([text], pa.string()))


def _starts(parts: list[Part]) -> dict[int, int]:
    """Return the first step of every session."""
    return {part.label.session: part.label.start for part in parts}


def _limit(starts: dict[int, int], session: int) -> int | None:
    """Return the step from which later sessions supersede this one; None if none does."""
    return min((start for later, start in starts.items() if later > session), default=None)
