"""Curves over steps: thinned to what a screen can show, packed as base64."""

import base64
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

MAX_COLUMNS: Final = 2000
"""Points of a curve; more than a screen has pixels."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values over steps; where several steps share a point, `low` and `high` tell their range."""

    steps: IntArray
    mean: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None


def thin_curve(steps: IntArray, values: FloatArray, limit: int = MAX_COLUMNS) -> Curve:
    """Return a curve of at most `limit` points, each over equally many steps.

    A point stands at the last of its steps. Values that are not finite are left out of a point; a
    point without any other is NaN, so the gap shows.
    """
    count = len(steps)
    if count <= limit:
        return Curve(steps=steps, mean=np.where(np.isfinite(values), values, np.nan))
    width = -(-count // limit)
    blocks = _blocks(values, width)
    finite = np.isfinite(blocks)
    num = finite.sum(axis=1)
    total = np.where(finite, blocks, 0).sum(axis=1)
    empty = num == 0
    low = np.where(finite, blocks, np.inf).min(axis=1)
    high = np.where(finite, blocks, -np.inf).max(axis=1)
    ends = np.minimum(np.arange(1, len(blocks) + 1) * width, count) - 1
    return Curve(
        steps=steps[ends],
        mean=np.where(empty, np.nan, total / np.maximum(num, 1)),
        low=np.where(empty, np.nan, low),
        high=np.where(empty, np.nan, high),
    )


def thin_share(flags: npt.NDArray[np.bool_], limit: int = MAX_COLUMNS) -> FloatArray:
    """Return the share of raised flags in each point of a curve thinned to the same limit."""
    if len(flags) <= limit:
        return flags.astype(np.float64)
    blocks = _blocks(flags.astype(np.float64), -(-len(flags) // limit))
    share: FloatArray = np.nanmean(blocks, axis=1)
    return share


def _blocks(values: FloatArray, width: int) -> FloatArray:
    """Return `(num_blocks, width)`; the last block is filled up with NaN."""
    padding = -len(values) % width
    return np.pad(values, (0, padding), constant_values=np.nan).reshape(-1, width)


def pack_curve(steps: IntArray, values: FloatArray, *, at_records: bool = False) -> dict[str, Any]:
    """Return a curve as JSON; without `x` it stands at the run's own steps.

    A signal that few steps have (validation loss) keeps these alone, and so does one that is
    measured `at_records` only: a step between two of them is no gap.
    """
    known = np.isfinite(values)
    sparse = at_records or known.sum() <= len(steps) // 2
    if sparse:
        steps, values = steps[known], values[known]
    curve = thin_curve(steps, values)
    packed: dict[str, Any] = {"y": pack(curve.mean, "<f4")}
    if sparse:
        packed["x"] = pack(curve.steps, "<i4")
    if curve.low is not None and curve.high is not None:
        packed |= {"low": pack(curve.low, "<f4"), "high": pack(curve.high, "<f4")}
    return packed


def pack(values: npt.ArrayLike, dtype: str) -> str:
    """Return an array's bytes, little-endian, as base64."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite on the page as well
        return base64.b64encode(np.asarray(values).astype(dtype).tobytes()).decode("ascii")
