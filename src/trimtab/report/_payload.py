"""The data of the page as one JSON object: curves, heat maps, histograms, facts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from trimtab.findings import Finding, Severity, merge
from trimtab.report._colours import DIVERGING, SEQUENTIAL
from trimtab.report._facts import about, judge, key_figures
from trimtab.report._histograms import pack_histograms
from trimtab.report._maps import pack_maps, unit_of
from trimtab.report._numbers import title
from trimtab.report._runs import RunData
from trimtab.report._series import pack, pack_curve, thin_curve, thin_share
from trimtab.rules import load_rules

MAX_EVENTS: Final = 300
AT_RECORDS: Final = {"gradient.noise_scale", "memory.bytes", "weight.norm"}
"""Numbers of a step that are measured only where parameters are."""
DETAILS: Final = ("what", "evidence", "why", "fix", "also", "led to")
"""What a finding's card shows of it."""

OWN_PLACE: Final = {
    "loss",
    "val_loss",
    "learning_rate",
    "gradient.norm",
    "gradient.clip_threshold",
    "gradient.clip_coefficient",
    "step.skipped",
    "tokens",
}
"""Signals of a step that have a chart of their own, or are seen in one."""


def make_payload(runs: Sequence[RunData]) -> dict[str, Any]:
    """Return everything that the page shows of one run or two."""
    bins, histograms = pack_histograms(runs)
    return {
        "runs": [_run(data) for data in runs],
        "others": _others(runs),
        **pack_maps(runs),
        "bins": bins,
        "histograms": histograms,
        "colours": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
    }


def _run(data: RunData) -> dict[str, Any]:
    steps = data.steps
    series = {
        name: pack_curve(steps.steps, values, at_records=name in AT_RECORDS)
        for name, values in steps.values.items()
        if steps.has(name)
    }
    for name, flags in (("clipped", steps.clipped), ("skipped", steps.skipped)):
        if flags.any():
            series[name] = {"y": pack(thin_share(flags), "<f4")}
    thinned = thin_curve(steps.steps, np.zeros(len(steps.steps))).steps
    found = _merged([event for event in data.events if event.get("kind") == "finding"])
    others = [event for event in data.events if event.get("kind") != "finding"]
    return {
        "name": data.name,
        "about": about(data),
        "verdict": asdict(judge(data)),
        "figures": [asdict(figure) for figure in key_figures(data)],
        "x": pack(thinned, "<i4"),
        "span": [int(steps.steps[0]), int(steps.steps[-1])] if len(steps.steps) else [],
        "series": series,
        "findings": [_finding(event) for event in found],
        "events": [_event(event) for event in others[:MAX_EVENTS]],
        "events_left_out": max(0, len(others) - MAX_EVENTS),
        "config": flatten(_settings(data)),
        "environment": flatten(data.info.get("environment") or {}),
    }


def _settings(data: RunData) -> dict[str, Any]:
    """Return all that was chosen: the run's configuration, its optimizers, its clipping."""
    noted = {key: data.info[key] for key in ("clip", "optimizers", "watch") if key in data.info}
    return noted | data.config


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    rest = {k: v for k, v in event.items() if k not in {"step", "kind", "session"}}
    text = ", ".join(f"{key} {_plain(value)}" for key, value in rest.items())
    kind = str(event.get("kind", "")).replace("_", " ")
    return {"step": int(event.get("step", 0)), "kind": kind, "text": text}


def _merged(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one event for each cause, with what followed from it; others come as they are.

    What trimtab's own rules found is there in full, under the key `finding`.
    """
    whole = [Finding.from_dict(e["finding"]) for e in events if "finding" in e]
    others = [dict(event) for event in events if "finding" not in event]
    if whole:
        load_rules()  # which know what leads to what
    return [_event_of(finding) for finding in merge(whole)] + others


def _event_of(finding: Finding) -> dict[str, Any]:
    levels = {Severity.ERROR: "bad", Severity.ADVICE: "plain"}
    return {
        "code": finding.code,
        "name": finding.name,
        "site": finding.site,
        "step": finding.step or 0,
        "level": levels.get(finding.severity, "warn"),
        "what": finding.what,
        "evidence": "; ".join(str(each) for each in finding.evidence),
        "why": finding.cause,
        "fix": finding.fix,
        "also": ", ".join(finding.also),
        "led to": "; ".join(f"{each}" for each in finding.consequences),
    }


def _finding(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finding: whoever judges a run writes it as an event of that kind."""
    heading = f"{event.get('code', '')} {event.get('name', 'finding')}".strip()
    where = f" at {event['site']}" if event.get("site") else ""
    details = [(k, _plain(event[k])) for k in DETAILS if event.get(k)]
    level = event.get("level") if event.get("level") in {"good", "plain", "bad"} else "warn"
    text = f"{heading}{where}, step {int(event.get('step', 0)):,}"
    return {"title": text, "level": level, "details": details}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as dotted names and text; what stands in a list has its place."""
    found: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            places = dict(zip(map(str, range(len(value))), value, strict=True))
            found += flatten(places, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            found += flatten(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", _plain(value)))
    return found


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def _others(runs: Sequence[RunData]) -> list[dict[str, str]]:
    """Return the signals of a step that get a small chart: those that ever change."""
    names = dict.fromkeys(name for data in runs for name in data.steps.values)
    shown = [n for n in names if n not in OWN_PLACE and any(_changes(d, n) for d in runs)]
    return [{"name": n, "title": title(n), "unit": unit_of("step", n)} for n in shown]


def _changes(data: RunData, signal: str) -> bool:
    values = data.steps.get(signal)
    values = values[np.isfinite(values)]
    return len(values) > 1 and float(np.ptp(values)) > 0
