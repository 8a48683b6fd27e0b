"""The heat maps of the page: every signal that any layer has, of one run or two."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from trimtab.report._grids import (
    MAX_CELLS,
    MAX_COLUMNS,
    SIGNED,
    Grid,
    choose_scale,
    make_grid,
    pack_grid,
)
from trimtab.report._numbers import title
from trimtab.report._runs import Layers, RunData
from trimtab.report._series import IntArray
from trimtab.signals import SIGNALS

FIRST_MAPS: Final = (
    "parameter:gradient.norm",
    "module:activation.rms",
    "module:activation.dead_fraction",
    "parameter:update.ratio",
    "module:activation.zero_fraction",
    "module:activation.max",
    "parameter:weight.norm",
)
"""Heat maps that are shown at once: the first four that are not all one value."""

MIN_COLUMNS: Final = 40
"""Columns that a heat map keeps even in a model with thousands of layers."""

_ENDS: Final = (np.nanmin, np.nanmax)
_KNOWN: Final = {(str(s.family), s.name): s for s in SIGNALS}


def pack_maps(runs: Sequence[RunData]) -> dict[str, Any]:
    """Return heat maps as fine as the file's size allows, and which of them come first."""
    sites = {family: _all_sites(runs, family) for family in ("parameter", "module")}
    wanted = dict.fromkeys(
        (family, name)
        for data in runs
        for family, layers in data.layers.items()
        for name, values in layers.values.items()
        if not np.isnan(values).all()
    )
    rows = sum(len(d.layers[f].sites) for f, _ in wanted for d in runs if f in d.layers)
    columns = min(MAX_COLUMNS, max(MIN_COLUMNS, MAX_CELLS // max(rows, 1)))
    maps = [_map(runs, family, name, sites[family], columns) for family, name in wanted]
    keys = {f"{m['family']}:{m['name']}" for m in maps if m["varies"]}
    return {
        "sites": sites,
        "maps": maps,
        "first_maps": [key for key in FIRST_MAPS if key in keys][:4],
        "follow": _first_followed(runs, maps, sites),
    }


def unit_of(family: str, name: str) -> str:
    """Return a signal's unit; nothing for one that the catalogue does not know."""
    signal = _KNOWN.get((family, name))
    return signal.unit if signal else ""


def _all_sites(runs: Sequence[RunData], family: str) -> list[str]:
    """Return the sites of all runs, each once."""
    layers = [data.layers[family] for data in runs if family in data.layers]
    return list(dict.fromkeys(site for one in layers for site in one.sites))


def _map(
    runs: Sequence[RunData], family: str, name: str, sites: list[str], columns: int
) -> dict[str, Any]:
    measured = [data.layers.get(family) for data in runs]
    pairs = [
        (layers, make_grid(layers, name, columns)) if layers and name in layers.values else None
        for layers in measured
    ]
    there = [pair for pair in pairs if pair is not None]
    rows = _rows_with_values(there, sites)
    scale, colour = choose_scale(name, [grid for _, grid in there])
    signal = _KNOWN.get((family, name))
    return {
        "name": name,
        "family": family,
        "title": title(name),
        "unit": unit_of(family, name),
        "meaning": signal.meaning[:1].upper() + signal.meaning[1:] if signal else title(name),
        "scale": scale,
        "colour": colour,
        "diverging": name in SIGNED,
        "varies": len({float(pick(grid.values)) for _, grid in there for pick in _ENDS}) > 1,
        "rows": rows.tolist(),
        "runs": [
            None if pair is None else _packed(*pair, name, [sites[row] for row in rows], scale)
            for pair in pairs
        ],
    }


def _rows_with_values(pairs: Sequence[tuple[Layers, Grid]], sites: list[str]) -> IntArray:
    """Return the places among all sites of those where any run has a value."""
    full: set[str] = set()
    for layers, grid in pairs:
        known = (~np.isnan(grid.values) | grid.broken).any(axis=1)
        full |= {layers.sites[row] for row in np.flatnonzero(known)}
    return np.array([i for i, site in enumerate(sites) if site in full], np.int64)


def _packed(
    layers: Layers, grid: Grid, name: str, sites: Sequence[str], scale: str
) -> dict[str, Any]:
    """Return a run's part of a heat map; a site that only the other run has stays empty."""
    place = {site: i for i, site in enumerate(layers.sites)}
    rows = np.array([place.get(site, len(place)) for site in sites], np.int64)
    return pack_grid(grid.with_empty_row(), rows, scale) | {"note": grid.note(name)}


def _first_followed(
    runs: Sequence[RunData], maps: Sequence[Mapping[str, Any]], sites: Mapping[str, list[str]]
) -> tuple[str, str] | None:
    """Return the layer that is followed at first: that of the largest gradient."""
    layers = runs[0].layers.get("parameter")
    if layers is not None and "gradient.norm" in layers.values:
        norms = layers.values["gradient.norm"]
        norms = np.where(np.isfinite(norms), norms, -np.inf)
        return "parameter", layers.sites[int(norms.max(axis=1).argmax())]
    for one in maps:
        return one["family"], sites[one["family"]][one["rows"][0]]
    return None
