"""Figures of a run for a notebook or a paper: the curves, and the layers as heat maps."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trimtab.report._colours import DIVERGING, SEQUENTIAL
from trimtab.report._grids import SIGNED, choose_scale, make_grid
from trimtab.report._numbers import title
from trimtab.report._runs import Layers, RunData, Steps
from trimtab.signals import Run, load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, AMBER, RED = "#0b66a8", "#b84a00", "#c98a00", "#b3202c"

MAPS: Final = (
    ("parameter", "gradient.norm"),
    ("module", "activation.rms"),
    ("module", "activation.dead_fraction"),
    ("parameter", "update.ratio"),
)
"""Heat maps in the second figure, as far as they were measured."""


def plot(run: Run | Path) -> "list[Figure]":
    """Draw a run: loss, learning rate and gradient norm, and heat maps of its layers.

    The figures belong to no window and to no global state; show them in a notebook or call
    `savefig`.

    Args:
        run: A run, or its folder.

    Returns:
        The curves and, if layers were watched, the heat maps.

    Raises:
        ConfigError: The folder holds no run.
    """
    data = RunData(run if isinstance(run, Run) else load_run(run))
    maps = [(f, s) for f, s in MAPS if f in data.layers and _known(data.layers[f], s)]
    return [_curves(data), *([_heat_maps(data, maps)] if maps else [])]


def _known(layers: Layers, signal: str) -> bool:
    return signal in layers.values and bool(np.isfinite(layers.values[signal]).any())


def _curves(data: RunData) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    steps = data.steps
    figure = Figure(figsize=(9, 7), layout="constrained")
    loss, rate, norm = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 2])
    figure.suptitle(data.name, fontsize=12)
    _line(loss, steps, "loss", BLUE, label="training")
    validated = np.isfinite(steps.get("val_loss"))
    if validated.any():
        x, y = steps.steps[validated], steps.get("val_loss")[validated]
        loss.plot(x, y, color=ORANGE, marker="o", ms=4, label="validation")
    _line(rate, steps, "learning_rate", BLUE)
    _line(norm, steps, "gradient.norm", BLUE, label="norm before clipping")
    _line(norm, steps, "gradient.clip_threshold", ORANGE, label="clip threshold", ls="--")
    if (steps.get("gradient.norm") > 0).any():
        norm.set_yscale("log")
    for axes in (loss, norm):
        _mark(axes, steps)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    for axes, label in ((loss, "loss"), (rate, "learning rate"), (norm, "gradient norm")):
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    norm.set_xlabel("step")
    return figure


def _line(axes: "Axes", steps: Steps, signal: str, colour: str, **options: Any) -> None:
    if steps.has(signal):
        axes.plot(steps.steps, steps.get(signal), color=colour, lw=1.2, **options)


def _mark(axes: "Axes", steps: Steps) -> None:
    """Mark clipped and skipped steps by ticks along the lower edge."""
    for flags, colour, label in (
        (steps.clipped, AMBER, "clipped"),
        (steps.skipped, RED, "skipped"),
    ):
        if flags.any():
            x = steps.steps[flags]
            across = axes.get_xaxis_transform()
            axes.plot(
                x, np.full(len(x), 0.02), "|", color=colour, transform=across, label=label, ms=7
            )


def _heat_maps(data: RunData, maps: list[tuple[str, str]]) -> "Figure":
    from matplotlib.figure import Figure

    num_rows = -(-len(maps) // 2)
    figure = Figure(figsize=(12, 4.2 * num_rows), layout="constrained")
    places = figure.subplots(num_rows, min(2, len(maps)), squeeze=False)
    for axes in places.flat[len(maps) :]:
        axes.set_axis_off()
    for axes, (family, signal) in zip(places.flat, maps, strict=False):
        _heat_map(axes, data.layers[family], signal)
    return figure


def _heat_map(axes: "Axes", layers: Layers, signal: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    grid = make_grid(layers, signal)
    shown = np.flatnonzero(~np.isnan(grid.values).all(axis=1))
    scale, (low, high) = choose_scale(signal, [grid])
    colours = LinearSegmentedColormap.from_list(
        "trimtab", DIVERGING if signal in SIGNED else SEQUENTIAL
    )
    if scale == "log":
        norm: Normalize = LogNorm(np.exp(low), np.exp(high), clip=True)
    else:
        norm = Normalize(low, high, clip=True)
    values = grid.values[shown]
    if scale == "log":
        values = np.where(values > 0, values, np.where(np.isnan(values), np.nan, np.exp(low)))
    step = np.median(np.diff(grid.steps)) if len(grid.steps) > 1 else 1
    edges = np.append(grid.steps, grid.steps[-1] + step)
    mesh = axes.pcolormesh(
        edges, np.arange(len(values) + 1), values, cmap=colours, norm=norm, rasterized=True
    )
    axes.figure.colorbar(mesh, ax=axes, pad=0.01)
    sites = [layers.sites[row] for row in shown]
    every = -(-len(sites) // 18)
    axes.set_yticks(np.arange(0, len(sites), every) + 0.5, sites[::every], fontsize=7)
    axes.invert_yaxis()
    axes.set_title(title(signal), fontsize=10)
    axes.set_xlabel("step")
