"""What was measured of one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab.signals._loggers import flatten
from trimtab.signals._store import RunWriter

Columns = Mapping[str, np.ndarray[Any, Any]]
"""Signal to one value a site, `(num_sites,)`, or one row of bins, `(num_sites, num_bins)`."""


@dataclass
class StepRecord:
    """What was measured of one step."""

    step: int
    """From 1."""
    values: dict[str, float]
    """Signals of the whole step."""
    tables: dict[str, tuple[Sequence[str], Columns]] = field(default_factory=dict)
    """Sites and signals of `parameters`, `modules` and `histograms`, where they were due."""

    def append_to(self, writer: RunWriter) -> None:
        """Write the record into a run folder."""
        writer.append("steps", self.step, as_columns(self.values))
        for table, (sites, columns) in self.tables.items():
            writer.append(table, self.step, columns, sites)

    def scalars(self) -> dict[str, float]:
        """Return all of it as scalars, those of a site as `signal/site`."""
        scalars = dict(self.values)
        for sites, columns in self.tables.values():
            scalars |= flatten(columns, sites)
        return scalars


def as_columns(values: Mapping[str, float]) -> dict[str, np.ndarray[Any, Any]]:
    """Return one row of numbers as columns of one value."""
    return {name: np.array([value]) for name, value in values.items()}
