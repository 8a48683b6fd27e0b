"""Heat maps: a signal of every layer over the steps, in two bytes a cell.

Each row has its own range, so a curve read back from it is exact to 1/65,532 of that range. The
range of the colours belongs to the whole map, and leaves out the last per cent on either side.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trimtab.report._runs import Layers
from trimtab.report._series import FloatArray, IntArray, pack

MAX_COLUMNS: Final = 500
"""Columns of a heat map."""
MAX_CELLS: Final = 620_000
"""Cells of all heat maps together: 1.7 MB in the file."""

MISSING, BROKEN, ZERO, LARGEST = 65_535, 65_534, 65_533, 65_532
"""Codes without a value, not finite, zero on a logarithmic scale, and the end of a row's range."""

PEAKS: Final = ("gradient.norm", "gradient.rms", "activation.max", "attention.logit_max")
"""Signals of which the largest counts where several records share a column; fractions of values
that are not finite belong to them too. Of the others it is the mean."""
SIGNED: Final = ("activation.mean", "activation.drift_mean", "activation.drift_scale")
BREAKING: Final = (
    "gradient.norm",
    "gradient.rms",
    "weight.norm",
    "activation.mean",
    "activation.rms",
    "activation.max",
)
"""Signals where infinity means broken numbers, and so does NaN in a layer that has values
otherwise. Of the others it only means that there is none, like the ratio to a weight of zero."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One signal of one run."""

    steps: IntArray
    values: FloatArray  # (num_sites, num_columns)
    broken: npt.NDArray[np.bool_]
    width: int
    """Records in a column."""

    def with_empty_row(self) -> "Grid":
        """Return the grid with one more row that has no value, for sites of the other run."""
        return replace(
            self,
            values=np.pad(self.values, ((0, 1), (0, 0)), constant_values=np.nan),
            broken=np.pad(self.broken, ((0, 1), (0, 0))),
        )

    def note(self, signal: str) -> str:
        """Return a line that says what a cell is."""
        if self.width == 1:
            return f"{len(self.steps):,} records; a cell is one of them."
        what = "largest" if _is_peak(signal) else "mean"
        return f"A cell is the {what} of {self.width} records."


def make_grid(layers: Layers, signal: str, limit: int = MAX_COLUMNS) -> Grid:
    """Return a signal with at most `limit` columns."""
    values, steps = layers.values[signal], layers.steps
    broken = np.zeros(values.shape, bool)
    if signal in BREAKING:
        known = np.isfinite(values).any(axis=1, keepdims=True)
        broken = np.isinf(values) | (np.isnan(values) & layers.recorded & known)
    values = np.where(np.isfinite(values), values, np.nan)
    width = -(-len(steps) // max(limit, 1))
    if width > 1:
        starts = np.arange(0, len(steps), width)
        values = _reduce(values, starts, width, largest=_is_peak(signal))
        broken = np.logical_or.reduceat(broken, starts, axis=1)
        steps = steps[starts]
    return Grid(steps=steps, values=values, broken=broken, width=width)


def _is_peak(signal: str) -> bool:
    return signal in PEAKS or signal.endswith("nonfinite_fraction")


def _reduce(values: FloatArray, starts: IntArray, width: int, *, largest: bool) -> FloatArray:
    padding = len(starts) * width - values.shape[1]
    padded = np.pad(values, ((0, 0), (0, padding)), constant_values=np.nan)
    blocks = padded.reshape(len(values), len(starts), width)
    known = ~np.isnan(blocks)
    if largest:
        made = np.where(known, blocks, -np.inf).max(axis=2)
    else:
        made = np.where(known, blocks, 0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
    return np.where(known.any(axis=2), made, np.nan)


def choose_scale(signal: str, grids: list[Grid]) -> tuple[str, tuple[float, float]]:
    """Return `"log"` or `"linear"`, and the range of the colours on that scale."""
    known = np.concatenate([g.values[~np.isnan(g.values)] for g in grids])
    if signal in SIGNED:
        bound = float(np.quantile(np.abs(known), 0.99)) if len(known) else 0.0
        return "linear", (-bound or -1.0, bound or 1.0)
    if signal.endswith(("fraction", "saturation")):
        return "linear", (0.0, float(np.quantile(known, 0.995)) or float(known.max()) or 1.0)
    positive = known[known > 0]
    if len(positive) and (known >= 0).all():
        low, high = (float(v) for v in np.quantile(positive, [0.01, 0.99]))
        if high > 20 * low:
            return "log", (math.log(low), math.log(high))
    low, high = (float(v) for v in np.quantile(known, [0.01, 0.99]))
    return "linear", (low, high)


def pack_grid(grid: Grid, rows: IntArray, scale: str) -> dict[str, Any]:
    """Return the rows of a grid as JSON."""
    values, broken = grid.values[rows], grid.broken[rows]
    known = ~np.isnan(values)
    zero = known & (values <= 0) & (scale == "log")
    if scale == "log":
        values = np.log(np.where(known & ~zero, values, 1.0))
    ranged = known & ~zero
    lows = np.where(ranged, values, np.inf).min(axis=1, initial=np.inf)
    highs = np.where(ranged, values, -np.inf).max(axis=1, initial=-np.inf)
    lows, highs = (np.where(np.isfinite(v), v, 0).astype(np.float32) for v in (lows, highs))
    span = np.where(highs > lows, highs - lows, 1)
    places = (np.where(ranged, values, 0) - lows[:, None]) / span[:, None]
    codes = np.rint(np.clip(places, 0, 1) * LARGEST).astype(np.uint16)
    codes[~known] = MISSING
    codes[zero] = ZERO
    codes[broken] = BROKEN
    return {
        "steps": pack(grid.steps, "<i4"),
        "span": [int(grid.steps[0]), int(grid.steps[-1])],
        "lows": pack(lows, "<f4"),
        "highs": pack(highs, "<f4"),
        "codes": pack(codes, "<u2"),
    }
