"""The report of a run as one HTML file that needs nothing else."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata, resources
from pathlib import Path
from string import Template
from typing import Any, Final

from trimtab.checkpoint import write_atomic
from trimtab.errors import ConfigError
from trimtab.report._payload import make_payload
from trimtab.report._runs import RunData

SCRIPTS: Final = ("base.js", "chart.js", "heat.js", "sections.js", "theme.js", "main.js")
"""In this order they become one script."""


def write_report(runs: Sequence[Path], out: Path | None = None, *, name: str | None = None) -> Path:
    """Write one HTML file about a run, or about two of them side by side.

    Style, script and data are inside; a content security policy forbids the page to load or run
    anything else. Curves have at most 2,000 points and heat maps at most 500 columns, so the file
    stays below 3 MB however long the run was.

    Args:
        runs: One run folder or two.
        out: The file, replaced whole; by default `report.html` in the first run's folder.
        name: Title of the page; by default made of the runs' names.

    Returns:
        The file.

    Raises:
        ConfigError: There are none or more than two runs, a folder holds no run, or `out` cannot
            be written.
    """
    if not 1 <= len(runs) <= 2:
        raise ConfigError(f"A report is about one run or two, got {len(runs)}. Leave some out.")
    data = [RunData.load(Path(run)) for run in runs]
    path = Path(out) if out is not None else Path(runs[0]) / "report.html"
    title = name or " and ".join(run.name for run in data)
    page = render(make_payload(_named_apart(data)), title=title)
    try:
        write_atomic(path, page.encode())
    except OSError as error:
        raise ConfigError(
            f"Cannot write the report to {path}: {error.strerror}. Pass another file with --out."
        ) from error
    return path


def _named_apart(data: list[RunData]) -> list[RunData]:
    """Let two runs of one name go by their folders."""
    if len({run.name for run in data}) < len(data):
        for i, run in enumerate(data):
            run.info["name"] = f"{run.run.path.resolve().name} ({'AB'[i]})"
    return data


def render(
    payload: dict[str, Any],
    *,
    title: str,
    kind: str = "run report",
    scripts: Sequence[str] = SCRIPTS,
) -> str:
    """Return a page.

    Args:
        payload: What its script shows.
        title: Of the window.
        kind: What stands beside the name trimtab at the top.
        scripts: Files that in this order become one script.
    """
    folder = resources.files("trimtab.report") / "page"
    read = {p: (folder / p).read_text(encoding="utf-8") for p in (*scripts, "style.css")}
    script = '(() => {\n"use strict";\n' + "\n".join(read[p] for p in scripts) + "})();\n"
    version = metadata.version("trimtab")
    return Template((folder / "template.html").read_text(encoding="utf-8")).substitute(
        generator=html.escape(f"trimtab {version}"),
        title=html.escape(title),
        kind=html.escape(kind),
        style=read["style.css"],
        style_hash=_hash(read["style.css"]),
        script=script,
        script_hash=_hash(script),
        data=embed(payload),
        footer=html.escape(f"Made by trimtab {version} on {datetime.now():%Y-%m-%d %H:%M}."),
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"sha256-{digest}"


def embed(payload: object) -> str:
    r"""Return JSON that can stand inside a script element: no `<` can end it.

    >>> embed({"site": "</script>", "value": float("nan")})
    '{"site":"\\u003c/script\\u003e","value":null}'
    """
    text = json.dumps(_strict(payload), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _strict(value: Any) -> Any:
    """Replace numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    is_odd = isinstance(value, float) and not -float("inf") < value < float("inf")
    return None if is_odd else value
