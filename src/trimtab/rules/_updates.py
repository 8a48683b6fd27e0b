"""The updates of a run as rules read them: of weight matrices, in steps that were made."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.rules._history import Floats, History, Series, Steps

MATRICES: Final = frozenset({"weight", "embedding"})
"""Roles of parameters that are judged by the size of their updates. Biases and norms begin at 0 and
1, and their updates have no yardstick."""


class Updates(NamedTuple):
    """Update ratios of weights in the steps that were made."""

    steps: Steps
    """`(num_records,)`."""
    sites: list[str]
    ratios: Floats
    """`(num_records, num_sites)`; NaN where it is not known."""
    learning_rates: Floats
    """`(num_records,)`; NaN where it is not known."""

    @property
    def typical(self) -> Floats:
        """Median over the sites, `(num_records,)`; NaN where none is known."""
        return row_medians(self.ratios)


def weight_updates(history: History, count: int) -> Updates:
    """Return the newest `count` records of the updates of weights.

    Steps that were skipped are left out, and ratios that are infinite because a weight was all
    zero.
    """
    table = history.table("parameters", "update.ratio").last(count)
    keep = ~(values_at(history.series("step.skipped"), table.steps) > 0)
    rates = values_at(history.series("learning_rate"), table.steps)
    matrices = table.only(is_matrix(history, table.sites))
    ratios = np.where(np.isfinite(matrices.values), matrices.values, np.nan)
    return Updates(table.steps[keep], matrices.sites, ratios[keep], rates[keep])


def is_matrix(history: History, sites: list[str]) -> NDArray[np.bool_]:
    """Tell which parameters are weights or embeddings; all, where nothing is known of them."""
    roles = {p.name: p.role for p in history.setup.params}
    return np.array([roles.get(site, "weight") in MATRICES for site in sites], dtype=bool)


def values_at(series: Series, steps: Steps) -> Floats:
    """Return the values of a series at some steps; NaN where it has none."""
    if not len(series.steps):
        return np.full(len(steps), np.nan)
    place = np.minimum(np.searchsorted(series.steps, steps), len(series.steps) - 1)
    return np.where(series.steps[place] == steps, series.values[place], np.nan)


def row_medians(values: Floats) -> Floats:
    """Return the median of each row's finite values; NaN for a row without any."""
    if not values.size:
        return np.full(len(values), np.nan)
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan), axis=1)  # NaN comes last
    count = np.isfinite(ordered).sum(axis=1)
    rows = np.arange(len(values))
    lower = ordered[rows, np.maximum(count - 1, 0) // 2]
    upper = ordered[rows, np.minimum(count // 2, values.shape[1] - 1)]
    return np.where(count > 0, (lower + upper) / 2, np.nan)


def gradient_share(history: History, count: int) -> float:
    """Return the joint gradient norm over the joint weight norm, the median of `count` records.

    Some 0.01 to 1 at the start of training, and far less where there is nothing to learn. NaN if it
    is not known.
    """
    weight = history.series("weight.norm").known().last(count)
    gradient = values_at(history.series("gradient.norm"), weight.steps)
    known = np.isfinite(gradient) & (weight.values > 0)
    share = gradient[known] / weight.values[known]
    return float(np.median(share)) if len(share) else float("nan")


def streak(flags: NDArray[np.bool_]) -> int:
    """Return how many of the newest flags are all set."""
    off = np.flatnonzero(~flags)
    return len(flags) if not len(off) else len(flags) - 1 - int(off[-1])
