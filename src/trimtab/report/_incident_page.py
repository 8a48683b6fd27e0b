"""The page of an incident: what happened, why, what was done, and the replays that prove it."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from trimtab.findings import Evidence
from trimtab.report._html import render
from trimtab.report._numbers import duration, number
from trimtab.report._payload import flatten
from trimtab.report._series import FloatArray, pack

SCRIPTS: Final = ("base.js", "chart.js", "sections.js", "theme.js", "incident.js")
"""In this order they become one script."""

VERDICTS: Final = {
    "skip": ("warn", "Step left out"),
    "rollback": ("warn", "Rolled back"),
    "stop": ("bad", "Run stopped"),
    "observed": ("plain", "Observed only"),
}
"""Level and word for what the guard did."""

LEVELS: Final = {"error": "bad", "warning": "warn", "advice": "plain"}
MAX_ROWS: Final = 24
"""Examples of a batch that are shown, those with the largest loss; the page is no data set."""


def incident_page(data: Mapping[str, Any], title: str) -> str:
    """Return one HTML file about an incident that needs nothing else.

    Style, script and data are inside; a content security policy forbids the page to load or run
    anything else.

    Args:
        data: An incident's `to_dict()`; beside it `environment`, `config`, `path` of the bundle,
            `left_out`, what could not be saved, and `replayable`, whether it can be repeated.
            Numbers may be the texts `"nan"` and `"inf"`.
        title: Of the page.
    """
    return render(_payload(data, title), title=title, kind="incident", scripts=SCRIPTS)


def _payload(data: Mapping[str, Any], title: str) -> dict[str, Any]:
    recorded = _signals(data)
    step = int(data["step"])
    return {
        "runs": [
            {
                "name": title,
                "about": list(_about(data)),
                "verdict": _verdict(data),
                "figures": list(_figures(data, recorded)),
                "config": flatten(data.get("config") or {}),
                "environment": flatten(data.get("environment") or {}),
            }
        ],
        "story": _story(data),
        "level": LEVELS.get(str(data["finding"].get("severity")), "warn"),
        "step": step,
        "marks": _marks(data),
        "series": {name: _curve(recorded["step"], v) for name, v in recorded.items()},
        "limits": {name: _float(value) for name, value in data.get("limits", {}).items()},
        "experiments": [_experiment(e, step, recorded) for e in data.get("experiments", ())],
        "suspects": _suspects(data.get("suspects") or {}),
        "commands": list(_commands(data)),
        "left_out": [str(each) for each in data.get("left_out", ())],
    }


def _float(value: object) -> float:
    """Return a number of strict JSON, which writes NaN and infinity as texts."""
    try:
        return float(value)  # type: ignore[arg-type] # whatever it is
    except (TypeError, ValueError):
        return math.nan


def _array(values: Sequence[object]) -> FloatArray:
    return np.array([_float(value) for value in values], dtype=np.float64)


def _signals(data: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Return the signals as arrays of one length, with the steps among them."""
    found = {name: _array(values) for name, values in data.get("signals", {}).items()}
    size = len(found.get("step", ()))
    return {"step": np.zeros(0)} | {name: v for name, v in found.items() if len(v) == size}


def _curve(steps: FloatArray, values: FloatArray) -> dict[str, Any]:
    """Return a curve, and whether each of its values is no number."""
    odd = (~np.isfinite(values)).astype(np.float64)
    return {"x": pack(steps, "<i4"), "y": pack(values, "<f4"), "odd": pack(odd, "<f4")}


def _at(recorded: Mapping[str, FloatArray], name: str, step: int) -> float:
    """Return a signal at a step; NaN if it was not recorded."""
    places = np.flatnonzero(recorded["step"] == step)
    return float(recorded[name][places[0]]) if name in recorded and len(places) else math.nan


def _about(data: Mapping[str, Any]) -> Iterator[str]:
    environment = data.get("environment") or {}
    config = data.get("config") or {}
    if config.get("recipe"):
        yield f"recipe {config['recipe']}"
    if environment.get("device"):
        yield f"on {environment['device']}"
    for name in ("torch", "trimtab"):
        if environment.get(name):
            yield f"{name} {environment[name]}"


def _verdict(data: Mapping[str, Any]) -> dict[str, Any]:
    level, word = VERDICTS.get(str(data["kind"]), ("plain", str(data["kind"])))
    facts = [f"bad since step {data['step']:,}", f"noticed at step {data['detected']:,}"]
    experiments = data.get("experiments", ())
    if experiments:
        healed = sum(bool(e["healed"]) for e in experiments)
        changes = [e for e in experiments if e.get("change")]
        facts.append(f"{healed} of {_count(len(changes), 'change')} removed it")
    return {"level": level, "word": word, "facts": facts}


def _figures(
    data: Mapping[str, Any], recorded: Mapping[str, FloatArray]
) -> Iterator[dict[str, str]]:
    """Yield the tiles: what was seen beside what is usual, and what it cost."""
    limits = {name: _float(value) for name, value in data.get("limits", {}).items()}
    for label, signal, key in (
        ("Loss", "loss", "loss"),
        ("Gradient norm", "gradient.norm", "norm"),
    ):
        if signal in recorded:
            level, limit = (limits.get(f"{key}_{end}", math.nan) for end in ("level", "limit"))
            parts = [("usual", level), ("limit", limit)]
            note = "; ".join(f"{word} {number(v, 3)}" for word, v in parts if not math.isnan(v))
            value = number(_at(recorded, signal, data["step"]), 3)
            yield {"label": f"{label} at step {data['step']:,}", "value": value, "note": note}
    start = data.get("snapshot_step")
    note = "no snapshot was needed" if start is None else f"snapshot of step {start:,}"
    yield {"label": "Steps lost", "value": f"{data['lost_steps']:,}", "note": note}
    experiments = data.get("experiments", ())
    seconds = sum(_float(e["seconds"]) for e in experiments)
    note = f"in {duration(seconds)}" if experiments else "none was asked for"
    yield {"label": "Replays", "value": f"{len(experiments)}", "note": note}


def _story(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return heading and text of each part of what is to be said."""
    finding = data["finding"]
    evidence = "; ".join(
        str(Evidence(name=e["name"], value=e["value"], normal=e["normal"]))
        for e in finding.get("evidence", ())
    )
    head = f"{finding['code']} {finding['name']}"
    where = f" at {finding['site']}" if finding.get("site") else ""
    parts = [
        ("what happened", finding["what"]),
        ("cause", f"{head}{where}: {finding.get('cause') or 'not known'}"),
        ("evidence", evidence),
        ("what was done", data["action"] or "nothing"),
        ("what it cost", _cost(data)),
        ("what to do", finding.get("fix", "")),
    ]
    return [(label, text) for label, text in parts if text]


def _cost(data: Mapping[str, Any]) -> str:
    lost = int(data["lost_steps"])
    text = f"the updates of {_count(lost, 'step')}" if lost else "no update was lost"
    experiments = data.get("experiments", ())
    if not experiments:
        return text
    seconds = sum(_float(e["seconds"]) for e in experiments)
    return f"{text}, and {duration(seconds)} for {_count(len(experiments), 'replay')}"


def _marks(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps that are marked across the charts."""
    start, step, noticed = data.get("snapshot_step"), int(data["step"]), int(data["detected"])
    marks = [] if start is None else [{"step": start, "label": "snapshot", "tint": "tint-plain"}]
    word = "first bad step" if noticed != step else "first bad step, noticed"
    marks.append({"step": step, "label": word, "tint": "tint-skipped"})
    if noticed != step:
        marks.append({"step": noticed, "label": "noticed", "tint": "tint-plain"})
    return marks


def _experiment(
    row: Mapping[str, Any], step: int, recorded: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """Return a row of the table of replays, in words, and its curve."""
    steps, losses = _made(row)
    level, outcome = _outcome(row)
    span = np.isin(recorded["step"], _array(row["steps"]))
    before = _curve(recorded["step"][span], recorded.get("loss", recorded["step"])[span])
    return {
        "change": str(row.get("words") or ", ".join(row.get("change", {})) or "as it was"),
        "recorded": number(_at(recorded, "loss", step)),
        "replayed": _loss_at(row, steps, losses, step),
        "last": number(float(losses[-1])) if len(losses) else "",
        "probe": "" if math.isnan(_float(row["probe"])) else number(_float(row["probe"])),
        "level": level,
        "outcome": outcome,
        "seconds": duration(_float(row["seconds"])),
        "note": str(row.get("note", "")),
        "replay": _curve(steps, losses),
        "before": before if "loss" in recorded else _curve(steps[:0], losses[:0]),
        "broke": _broke(steps, losses),
    }


def _made(row: Mapping[str, Any]) -> tuple[FloatArray, FloatArray]:
    """Return steps and losses of a replay, without the steps that it left out on purpose."""
    steps, losses = _array(row["steps"]), _array(row["losses"])
    steps, losses = steps[: len(losses)], losses[: len(steps)]
    kept = ~np.isin(steps, _array(_left_out(row)))
    return steps[kept], losses[kept]


def _left_out(row: Mapping[str, Any]) -> Sequence[int]:
    found: Sequence[int] = (row.get("change") or {}).get("without", ())
    return found


def _outcome(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return level and words for what came of a replay."""
    if not row.get("change"):
        if row["healed"]:
            return "warn", "did not happen again"
        if row.get("reproduced") is False:
            return "warn", "happened again, not as recorded"
        same = ", bit for bit" if row.get("reproduced") else ""
        return "plain", f"happened again{same}"
    return ("good", "did not happen") if row["healed"] else ("bad", "happened again")


def _loss_at(row: Mapping[str, Any], steps: FloatArray, losses: FloatArray, step: int) -> str:
    if step in _left_out(row):
        return "left out"
    places = np.flatnonzero(steps == step)
    return number(float(losses[places[0]])) if len(places) else ""


def _broke(steps: FloatArray, losses: FloatArray) -> str:
    """Return in words where the losses of a replay are no numbers."""
    odd = steps[~np.isfinite(losses)]
    if not len(odd):
        return ""
    if len(odd) == 1:
        return f"loss not finite at step {int(odd[0]):,}"
    return f"loss not finite at {len(odd)} steps, the first of them {int(odd[0]):,}"


def _suspects(suspects: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was at fault: examples by their loss, and the rest as names and texts."""
    losses = suspects.get("row_losses")
    rest = {key: value for key, value in suspects.items() if key != "row_losses"}
    if not isinstance(losses, list | tuple) or not losses:
        return {"rows": [], "left_out": 0, "others": flatten(rest)}
    values = [_float(value) for value in losses]
    order = sorted(range(len(values)), key=lambda i: (-_weight(values[i]), i))
    accused = {int(_float(row)) for row in suspects.get("rows", ()) if math.isfinite(_float(row))}
    top = max((v for v in values if math.isfinite(v)), default=1.0)
    rows = [
        {
            "row": i,
            "loss": number(values[i]),
            "share": _share(values[i], top),
            "odd": not math.isfinite(values[i]),
            "accused": i in accused,
        }
        for i in order[:MAX_ROWS]
    ]
    return {"rows": rows, "left_out": len(order) - len(rows), "others": flatten(rest)}


def _weight(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def _share(loss: float, top: float) -> float:
    """Return the length of a bar between 0 and 1."""
    if not math.isfinite(loss):
        return 1.0
    return min(max(loss / top, 0.0), 1.0) if top > 0 else 0.0


def _commands(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what each command is for, and the command; none for what cannot be repeated."""
    if not data.get("replayable", True):
        return
    path = shlex.quote(str(data.get("path") or "INCIDENT"))
    build = "" if (data.get("config") or {}).get("recipe") else " --build MODULE:FUNCTION"
    yield "Repeat the incident in a fresh process", f"trimtab replay {path}{build}"
    healed = [e["change"] for e in data.get("experiments", ()) if e["healed"] and e.get("change")]
    changes = _options(healed[0]) if healed else "--change lr=0.5"
    word = "Repeat it with the change that removes it" if healed else "Try a change of your own"
    yield word, f"trimtab replay {path}{build} {changes}"


def _options(change: Mapping[str, Any]) -> str:
    """Return a change as an option of the command."""
    texts = {
        key: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value).lower()
        for key, value in change.items()
    }
    return " ".join(["--change", *(f"{key}={text}" for key, text in texts.items())])


def _count(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
