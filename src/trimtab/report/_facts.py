"""What can be said of a run without judging it: a verdict from plain facts, and key figures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from trimtab.report._numbers import duration, number, percent
from trimtab.report._runs import RunData, Steps
from trimtab.report._series import FloatArray

Level = Literal["good", "plain", "warn", "bad"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a run went, in a word, and the facts behind it."""

    level: Level
    word: str
    facts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number worth a tile."""

    label: str
    value: str
    note: str = ""


def judge(data: RunData) -> Verdict:
    """Return the verdict: the gravest that the facts allow."""
    steps = data.steps
    level, word = _word(data)
    return Verdict(level=level, word=word, facts=tuple(_facts(steps)))


def _word(data: RunData) -> tuple[Level, str]:
    steps, stopped = data.steps, data.summary.get("stopped")
    if not len(steps.steps):
        return "plain", "No steps recorded"
    begin, end = loss_ends(steps)
    if stopped == "diverged":
        return "bad", "Diverged"
    if steps.broken[-1]:
        return "bad", "Ended in NaN"
    if end > begin:
        return "bad", "Loss rose"
    skipped, broken = int(steps.skipped.sum()), int(steps.broken.sum())
    if broken > skipped:
        return "warn", "NaN seen"
    if skipped:
        return "warn", f"{skipped:,} {_plural(skipped, 'step')} skipped"
    if stopped == "interrupted":
        return "plain", "Stopped early"
    return ("good", "Healthy") if data.ended else ("good", "Healthy so far")


def _facts(steps: Steps) -> Iterator[str]:
    count = len(steps.steps)
    if not count:
        return
    begin, end = loss_ends(steps)
    if not math.isnan(begin):
        verb = "rose" if end > begin else "fell"
        yield f"loss {verb} from {number(begin, 3)} to {number(end, 3)}"
    skipped, broken = int(steps.skipped.sum()), int(steps.broken.sum())
    yield f"{skipped:,} of {count:,} steps skipped" if skipped else "no step skipped"
    if steps.has("loss") or broken:
        word = _plural(broken, "loss", "losses")
        yield f"{broken:,} {word} not finite" if broken else "every loss finite"
    if steps.has("gradient.clip_coefficient"):
        yield f"{percent(float(steps.clipped.mean()))} of steps clipped"


def loss_ends(steps: Steps) -> tuple[float, float]:
    """Return the mean loss over the first and the last twentieth; NaN without losses."""
    loss = steps.get("loss")
    loss = loss[np.isfinite(loss)]
    if not len(loss):
        return math.nan, math.nan
    width = max(1, len(loss) // 20)
    return float(loss[:width].mean()), float(loss[-width:].mean())


def key_figures(data: RunData) -> list[Figure]:
    """Return the numbers for the tiles; those that were not measured are left out."""
    steps = data.steps
    if not len(steps.steps):
        return []
    return [figure for make in _FIGURES if (figure := make(steps, data)) is not None]


def _num_steps(steps: Steps, data: RunData) -> Figure:
    seconds = float(np.nansum(steps.get("step.seconds")))
    if not seconds:
        seconds = float(data.summary.get("seconds") or 0)
    note = f"in {duration(seconds)}" if seconds else ""
    return Figure(label="Steps", value=f"{len(steps.steps):,}", note=note)


def _loss(steps: Steps, _: RunData) -> Figure | None:
    begin, end = loss_ends(steps)
    if math.isnan(end):
        return None
    note = f"mean of the last 5 %; first {number(begin, 3)}"
    return Figure(label="Training loss", value=number(end), note=note)


def _validation(steps: Steps, _: RunData) -> Figure | None:
    if not steps.has("val_loss"):
        return None
    values = steps.get("val_loss")
    best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
    last = values[np.isfinite(values)][-1]
    note = f"best, at step {steps.steps[best]:,}; last {number(last, 3)}"
    return Figure(label="Validation loss", value=number(values[best]), note=note)


def _norm(steps: Steps, _: RunData) -> Figure | None:
    norms = steps.get("gradient.norm")
    if not steps.has("gradient.norm"):
        return None
    finite: FloatArray = np.where(np.isfinite(norms), norms, np.nan)
    top = int(np.nanargmax(finite))
    note = f"at step {steps.steps[top]:,}; median {number(float(np.nanmedian(finite)), 3)}"
    return Figure(label="Largest gradient norm", value=number(finite[top], 3), note=note)


def _clipped(steps: Steps, _: RunData) -> Figure | None:
    if not steps.has("gradient.clip_coefficient"):
        return None
    count = int(steps.clipped.sum())
    limits = steps.get("gradient.clip_threshold")
    note = f"{count:,} {_plural(count, 'step')}"
    if np.isfinite(limits).any():
        note += f"; threshold {number(float(limits[np.isfinite(limits)][-1]), 3)}"
    return Figure(label="Clipped", value=percent(count / len(limits)), note=note)


def _skipped(steps: Steps, _: RunData) -> Figure:
    count = int(steps.skipped.sum())
    last = f"last at step {steps.steps[steps.skipped][-1]:,}" if count else "every step was made"
    return Figure(label="Skipped", value=f"{count:,}", note=last)


def _speed(steps: Steps, _: RunData) -> Figure | None:
    seconds = steps.get("step.seconds")
    seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
    if not len(seconds):
        return None
    median = float(np.median(seconds))
    note = f"{number(1000 * median, 3)} ms a step, median"
    return Figure(label="Speed", value=f"{number(1 / median, 3)} steps/s", note=note)


def _rate(steps: Steps, _: RunData) -> Figure | None:
    rates = steps.get("learning_rate")
    rates = rates[np.isfinite(rates)]
    if not len(rates):
        return None
    note = f"highest; {number(float(rates[-1]), 2)} at the end"
    return Figure(label="Learning rate", value=number(float(rates.max()), 3), note=note)


_FIGURES = (_num_steps, _loss, _validation, _norm, _clipped, _skipped, _speed, _rate)


def about(data: RunData) -> list[str]:
    """Return what the run was: model, device, time."""
    info, summary = data.info, data.summary
    model = info.get("model") or {}
    size = model.get("num_parameters") or summary.get("num_parameters")
    environment = info.get("environment") or {}
    device = environment.get("device") or summary.get("device")
    parts: list[Any] = [
        model.get("class") or summary.get("recipe"),
        f"{_short(size)} parameters" if size else None,
        device and f"on {device}",
        _moment(str(info.get("started", ""))),
    ]
    return [str(part) for part in parts if part]


def _moment(text: str) -> str:
    """Return an ISO time to the minute; as it is if it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def _short(size: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return str(size)


def _plural(count: int, word: str, many: str = "") -> str:
    return word if count == 1 else many or word + "s"
