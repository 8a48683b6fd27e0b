"""What a run has measured so far, as rules read it: series of steps and tables of sites."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.rules._setup import EMPTY, Setup
from trimtab.signals import StepRecord

Family = Literal["parameters", "modules"]
Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

HEAD: Final = 64
"""First steps, and first records, that are kept for as long as the run lasts."""


class Series(NamedTuple):
    """A signal of whole steps."""

    steps: Steps
    """`(num_steps,)`."""
    values: Floats
    """`(num_steps,)`; NaN where it was not measured."""

    def last(self, count: int) -> "Series":
        """Return the newest ones."""
        return Series(self.steps[-count:], self.values[-count:])

    def known(self) -> "Series":
        """Return the steps in which it was measured and finite."""
        keep = np.isfinite(self.values)
        return Series(self.steps[keep], self.values[keep])


class Table(NamedTuple):
    """A signal of many sites."""

    steps: Steps
    """`(num_records,)`."""
    sites: list[str]
    values: Floats
    """`(num_records, num_sites)`; NaN where it was not measured."""

    def last(self, count: int) -> "Table":
        """Return the newest records."""
        return Table(self.steps[-count:], self.sites, self.values[-count:])

    def since(self, step: int) -> "Table":
        """Return the records from a step on."""
        keep = self.steps >= step
        return Table(self.steps[keep], self.sites, self.values[keep])

    def only(self, keep: Sequence[bool] | NDArray[np.bool_]) -> "Table":
        """Return some of the sites."""
        mask = np.asarray(keep, dtype=bool)
        sites = [s for s, k in zip(self.sites, mask, strict=True) if k]
        return Table(self.steps, sites, self.values[:, mask])


class History:
    """What a run has measured so far.

    The beginning is kept for good, and of the rest the newest part, so that memory is bounded.

    Args:
        setup: What is fixed about the run.
        max_steps: Newest steps that are kept.
        max_records: Newest records of sites that are kept.
    """

    def __init__(
        self, setup: Setup = EMPTY, *, max_steps: int = 4096, max_records: int = 256
    ) -> None:
        self.setup = setup
        self.step = 0
        """The newest step."""
        self.order: list[str] = []
        """Modules in the order in which a forward pass calls them, if that is known."""
        self._steps = _Block(max_steps)
        self._records: dict[str, _Block] = {
            "parameters": _Block(max_records),
            "modules": _Block(max_records),
        }

    def add(self, record: StepRecord) -> None:
        """Take in what was measured of one step."""
        self.step = record.step
        values = {name: np.atleast_1d(np.float64(v)) for name, v in record.values.items()}
        self._steps.append(record.step, [""], values)
        for family, block in self._records.items():
            if family in record.tables:
                sites, columns = record.tables[family]
                block.append(record.step, sites, columns)

    @property
    def num_steps(self) -> int:
        """Steps that are kept."""
        return len(self._steps.steps)

    def series(self, signal: str) -> Series:
        """Return a signal of whole steps; all NaN if it was never measured."""
        return Series(self._steps.steps, self._steps.column(signal)[:, 0])

    def table(self, family: Family, signal: str) -> Table:
        """Return a signal of many sites; without records if none was made."""
        block = self._records[family]
        return Table(block.steps, block.sites, block.column(signal))

    def at_record(self, signal: str, family: Family = "parameters") -> Series:
        """Return a signal of whole steps at the steps in which a family was recorded."""
        whole = self.series(signal)
        keep = np.isin(whole.steps, self._records[family].steps)
        return Series(whole.steps[keep], whole.values[keep])

    def state_dict(self) -> dict[str, Any]:
        """Return everything that was measured, as tensors."""
        blocks = {"steps": self._steps, **self._records}
        return {
            "step": self.step,
            "order": list(self.order),
            "blocks": {name: block.state_dict() for name, block in blocks.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.step, self.order = state["step"], list(state["order"])
        blocks = {"steps": self._steps, **self._records}
        for name, block in blocks.items():
            block.load_state_dict(state["blocks"][name])


class _Block:
    """Rows of one table; grows by doubling, and forgets its middle."""

    def __init__(self, limit: int) -> None:
        self.limit = limit + HEAD
        self.sites: list[str] = []
        self._index: dict[str, int] = {}
        self._length = 0
        self._steps: Steps = np.zeros(64, np.int64)
        self._columns: dict[str, Floats] = {}

    @property
    def steps(self) -> Steps:
        return self._steps[: self._length]

    def column(self, signal: str) -> Floats:
        """Return `(num_rows, num_sites)`."""
        found = self._columns.get(signal)
        if found is None:
            return np.full((self._length, max(1, len(self.sites))), np.nan)
        return found[: self._length]

    def append(self, step: int, sites: Sequence[str], columns: Any) -> None:
        if self._length >= self.limit + HEAD:
            self._forget()
        if self._length == len(self._steps):
            self._resize(2 * self._length, len(self.sites))
        rows = self._rows(sites)
        at = self._length
        self._steps[at] = step
        for signal, values in columns.items():
            if np.ndim(values) != 1:
                continue
            column = self._columns.get(signal)
            if column is None:
                column = np.full((len(self._steps), len(self.sites)), np.nan)
                self._columns[signal] = column
            column[at, rows] = values
        self._length += 1

    def _rows(self, sites: Sequence[str]) -> Any:
        if list(sites) == self.sites:
            return slice(None)
        new = [s for s in sites if s not in self._index]
        if new:
            self._index |= {s: len(self.sites) + i for i, s in enumerate(new)}
            self.sites = self.sites + new
            self._resize(len(self._steps), len(self.sites))
        return [self._index[s] for s in sites]

    def _resize(self, num_rows: int, num_sites: int) -> None:
        steps = np.zeros(num_rows, np.int64)
        steps[: self._length] = self._steps[: self._length]
        self._steps = steps
        for signal, old in self._columns.items():
            column = np.full((num_rows, num_sites), np.nan)
            column[: self._length, : old.shape[1]] = old[: self._length]
            self._columns[signal] = column

    def _forget(self) -> None:
        """Drop the oldest rows after the beginning, `HEAD` at a time."""
        self._steps[HEAD:-HEAD] = self._steps[2 * HEAD :]
        for column in self._columns.values():
            column[HEAD:-HEAD] = column[2 * HEAD :]
            column[-HEAD:] = np.nan
        self._length -= HEAD

    def state_dict(self) -> dict[str, Any]:
        """Return all rows."""
        return {
            "sites": list(self.sites),
            "steps": torch.from_numpy(self.steps.copy()),
            "columns": {
                name: torch.from_numpy(column[: self._length].copy())
                for name, column in self._columns.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.sites = list(state["sites"])
        self._index = {site: i for i, site in enumerate(self.sites)}
        self._steps = state["steps"].numpy().copy()
        self._length = len(self._steps)
        self._columns = {name: c.numpy().copy() for name, c in state["columns"].items()}
        self._resize(max(64, self._length), len(self.sites))
