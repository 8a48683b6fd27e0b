"""The run on the terminal while it goes on: key numbers, and the layers that stand out."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from trimtab.report._facts import judge
from trimtab.report._numbers import number, percent
from trimtab.report._runs import Layers, RunData, Steps
from trimtab.report._series import FloatArray

LINE_EVERY_S: Final = 10.0
"""Seconds between two plain lines where there is no terminal."""
RECENT: Final = 50
"""Steps that a recent share or speed is about."""
BARS: Final = "▁▂▃▄▅▆▇█"
NUM_WORST: Final = 4

WORST: Final = (
    ("largest gradient norm", "parameter", "gradient.norm"),
    ("largest dead fraction", "module", "activation.dead_fraction"),
    ("largest update ratio", "parameter", "update.ratio"),
)
"""Lists of layers: heading, family and signal."""


def watch(
    run: Path, *, once: bool = False, every_s: float = 1.0, console: Console | None = None
) -> None:
    """Show a run until it has ended or Ctrl-C is pressed.

    On a terminal the view is renewed in place; elsewhere a plain line comes every ten seconds.
    The run is only read, so it can be watched from as many places as one likes.

    Args:
        run: Its folder.
        once: Show what there is now, and return.
        every_s: Seconds between two looks at the folder.
        console: Where to write; default standard output.

    Raises:
        ConfigError: The folder holds no run.
    """
    console = console or Console(highlight=False)
    data = RunData.load(Path(run))
    if once:
        console.print(view(data))
        return
    try:
        if console.is_terminal:
            _live(Path(run), data, console, every_s)
        else:
            _lines(Path(run), data, console, every_s)
    except KeyboardInterrupt:
        console.print("No longer watched; the run itself goes on.")
        return
    console.print(f"The run has ended: {judge(RunData.load(Path(run))).word.lower()}.")


def _live(run: Path, data: RunData, console: Console, every_s: float) -> None:
    with Live(view(data), console=console, auto_refresh=False) as live:
        for state in _states(run, data, every_s):
            live.update(view(state), refresh=True)


def _lines(run: Path, data: RunData, console: Console, every_s: float) -> None:
    last, shown_at = None, -math.inf
    for state in _states(run, data, every_s):
        count = len(state.steps.steps)
        if count != last and (state.ended or time.monotonic() - shown_at >= LINE_EVERY_S):
            last, shown_at = count, time.monotonic()
            console.print(escape(line(state)), soft_wrap=True)


def _states(run: Path, data: RunData, every_s: float) -> Iterator[RunData]:
    """Yield the run as it is now, again and again; the last time when it has ended."""
    while not data.ended:
        yield data
        time.sleep(every_s)
        data = RunData.load(run)
    yield data


def line(data: RunData) -> str:
    """Return the state of a run in one line."""
    parts = [f"{name} {value}" for name, value, _ in _numbers(data.steps)]
    return "  ".join(parts) if parts else "no step yet"


def view(data: RunData) -> RenderableType:
    """Return what the terminal shows: key numbers, a sparkline and the layers that stand out."""
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column(style="dim")
    numbers.add_column(justify="right")
    numbers.add_column(style="dim", overflow="crop", no_wrap=True)
    for name, value, extra in _numbers(data.steps):
        numbers.add_row(name, value, extra)
    state = "" if not data.ended else f", {judge(data).word.lower()}"
    head = Text.assemble((data.name, "bold"), f"  {'ended' if data.ended else 'running'}{state}")
    if not len(data.steps.steps):
        return Group(head, Text("no step yet", style="dim"))
    worst = [made for row in WORST if (made := _worst(data.layers, *row)) is not None]
    return Group(head, numbers, *worst)


def _numbers(steps: Steps) -> list[tuple[str, str, str]]:
    """Return name, value and addition of each number that there is, the newest ones."""
    if not len(steps.steps):
        return []
    found = [("step", f"{int(steps.steps[-1]):,}", "")]
    for name, signal, spark in (
        ("loss", "loss", True),
        ("val loss", "val_loss", False),
        ("norm", "gradient.norm", True),
        ("lr", "learning_rate", False),
    ):
        values = steps.get(signal)
        if signal in steps.values and (signal == "loss" or np.isfinite(values).any()):
            known = values[~np.isnan(values)] if signal == "val_loss" else values
            digits = 2 if name == "lr" else 4
            bars = sparkline(values) if spark else ""
            found.append((name, number(float(known[-1]), digits), bars))
    if steps.has("gradient.clip_coefficient"):
        share = float(steps.clipped[-RECENT:].mean())
        found.append(("clipped", percent(share), f"of the last {min(RECENT, len(steps.steps))}"))
    skipped = int(steps.skipped.sum())
    at = f"last at step {int(steps.steps[steps.skipped][-1]):,}" if skipped else ""
    found.append(("skipped", f"{skipped:,}", at))
    seconds = steps.get("step.seconds")[-RECENT:]
    if np.nansum(seconds) > 0:
        found.append(("speed", f"{number(1 / float(np.nanmean(seconds)), 3)} steps/s", ""))
    return found


def sparkline(values: FloatArray, width: int = 40) -> str:
    """Return the newest values as bars, on a logarithmic scale if all are positive.

    >>> sparkline(np.array([1.0, 10.0, 100.0, math.nan, 1000.0]))
    '▁▃▆!█'
    """
    recent = values[-width:]
    finite = recent[np.isfinite(recent)]
    if not len(finite):
        return "!" * len(recent)
    scale = np.log if (finite > 0).all() else np.asarray
    low, high = float(scale(finite.min())), float(scale(finite.max()))
    span = high - low or 1.0
    places = [
        round((float(scale(v)) - low) / span * (len(BARS) - 1)) if np.isfinite(v) else None
        for v in recent
    ]
    return "".join("!" if place is None else BARS[place] for place in places)


def _worst(layers: dict[str, Layers], heading: str, family: str, signal: str) -> Table | None:
    """Return the layers with the largest newest values; None if there are none above zero."""
    if family not in layers or signal not in layers[family].values:
        return None
    one = layers[family]
    newest = _newest(one.values[signal])
    order = np.argsort(-np.nan_to_num(newest, nan=-np.inf), kind="stable")[:NUM_WORST]
    order = order[np.nan_to_num(newest[order]) > 0]
    if not len(order):
        return None
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify, table.title_style = f"\n{heading}", "left", "bold"
    table.add_column(justify="right", min_width=10)
    table.add_column(overflow="ellipsis", no_wrap=True)
    for row in order:
        table.add_row(number(float(newest[row]), 3), escape(one.sites[row]))
    return table


def _newest(values: FloatArray) -> FloatArray:
    """Return the last known value of each row; NaN where none is."""
    known = ~np.isnan(values)
    last = values.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    newest: FloatArray = np.where(known.any(axis=1), values[np.arange(len(values)), last], np.nan)
    return newest
