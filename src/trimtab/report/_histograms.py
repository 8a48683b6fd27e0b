"""Histograms over steps, as heat maps: one row a bin, the largest values on top."""

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from trimtab.report._grids import LARGEST, MISSING
from trimtab.report._runs import RunData, read_columns
from trimtab.report._series import FloatArray, IntArray, pack

MAX_COLUMNS: Final = 60
MAX_CELLS: Final = 200_000
"""Cells of all histograms together: 530 kB in the file."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ORDER: Final = {"activation": 0, "gradient": 1, "weight": 2}


def pack_histograms(runs: Sequence[RunData]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the names of the bins and the histograms of every site; nothing without records."""
    read = [_read(data) for data in runs]
    sites = list(dict.fromkeys(site for one in read for site in one))
    if not sites:
        return [], []
    sites.sort(key=lambda site: _ORDER.get(site.partition("/")[0], 3))
    num_bins = next(iter(counts.shape[1] for one in read for _, counts in one.values()))
    names = bin_names(runs[0].info.get("histogram_edges") or [], num_bins)
    used = {site: _used_bins([one[site][1] for one in read if site in one]) for site in sites}
    rows = sum(len(used[site]) for one in read for site in one)
    columns = min(MAX_COLUMNS, max(8, MAX_CELLS // max(rows, 1)))
    sites = sites[: max(1, MAX_CELLS * len(sites) // (8 * rows))]
    return names, [_histogram(site, read, used[site], columns) for site in sites]


def _read(data: RunData) -> dict[str, tuple[IntArray, FloatArray]]:
    """Return steps and counts, `(num_steps, num_bins)`, of each site."""
    columns = read_columns(data.run, "histograms")
    if "count" not in columns or not len(columns["step"]):
        return {}
    names = np.array([str(site) for site in columns["site"]])
    counts = np.stack([np.asarray(c, np.float64) for c in columns["count"]])
    steps = columns["step"].astype(np.int64)
    found = {}
    for name in dict.fromkeys(names.tolist()):
        mine = np.flatnonzero(names == name)
        found[name] = steps[mine], counts[mine]
    return found


def _used_bins(counts: Sequence[FloatArray]) -> IntArray:
    """Return the bins between the outermost ones that anything fell into, largest values first."""
    used = np.flatnonzero(sum((one.sum(axis=0) for one in counts), np.zeros(1)))
    return np.arange(used[-1], used[0] - 1, -1) if len(used) else np.arange(counts[0].shape[1])


def bin_names(edges: Sequence[float], num_bins: int) -> list[str]:
    """Return what each bin is called: the power of two where it begins, seen from zero."""
    if len(edges) != num_bins + 1:
        return [f"bin {i + 1}" for i in range(num_bins)]
    names = []
    for low, high in itertools.pairwise(edges):
        if low < 0 < high:
            names.append("0")
            continue
        inner = min(abs(low), abs(high))
        exponent = str(round(float(np.log2(inner)))).translate(_RAISED) if inner else "⁻∞"
        names.append(f"{'−' if high <= 0 else ''}2{exponent}")
    return names


def _histogram(
    site: str,
    read: Sequence[dict[str, tuple[IntArray, FloatArray]]],
    bins: IntArray,
    columns: int,
) -> dict[str, Any]:
    shares = [_shares(*one[site], bins, columns) if site in one else None for one in read]
    top = max(float(s.max()) for _, s in filter(None, shares)) or 1.0
    kind, _, name = site.partition("/")
    return {
        "title": f"{kind.capitalize()} of {name}" if name else site,
        "scale": "linear",
        "colour": [0, top],
        "rows": bins.tolist(),
        "runs": [None if pair is None else _pack(*pair) for pair in shares],
    }


def _shares(
    steps: IntArray, counts: FloatArray, bins: IntArray, columns: int
) -> tuple[IntArray, FloatArray]:
    """Return steps and per cent in each bin, `(num_bins, num_columns)`."""
    width = -(-len(steps) // columns)
    starts = np.arange(0, len(steps), width)
    summed = np.add.reduceat(counts[:, bins], starts, axis=0)
    total = summed.sum(axis=1, keepdims=True)
    return steps[starts], 100 * (summed / np.maximum(total, 1)).T


def _pack(steps: IntArray, shares: FloatArray) -> dict[str, Any]:
    highs = shares.max(axis=1)
    codes = np.rint(shares / np.where(highs > 0, highs, 1)[:, None] * LARGEST).astype(np.uint16)
    codes[shares == 0] = MISSING  # an empty bin stays blank
    return {
        "steps": pack(steps, "<i4"),
        "span": [int(steps[0]), int(steps[-1] + np.diff(steps[-2:]).sum())],  # the last has a width
        "lows": pack(np.zeros(len(highs)), "<f4"),
        "highs": pack(highs, "<f4"),
        "codes": pack(codes, "<u2"),
    }
