"""The catalogue for a terminal: one rule explained, and the list of all."""

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from trimtab.findings._markdown import families
from trimtab.findings._page import LOOKS_AT, TITLES, Page, example, good, titles
from trimtab.findings._render import LABELS, plain
from trimtab.findings._rule import Rule, find_rule, registered

WIDTH: Final = 100
"""Columns; docstrings, of which most of the text is made, are no wider."""


def explain(code_or_name: str) -> str:
    """Return what there is to say of a rule, as text.

    Raises:
        ConfigError: There is no such rule; the message names the nearest.
    """
    content = Page.of(find_rule(code_or_name))
    rule = content.rule
    parts = [f"{rule.code} {rule.name}", content.summary, _facts(content)]
    for label, title in TITLES.items():
        if label == "Fix":
            parts.append(_section("Example", example(rule)))
            parts.append(_section("Without the fault", good(rule)))
        if label == "Source":
            parts.append(_section("Thresholds", "\n".join(_thresholds(content))))
        parts.append(_section(title, content.sections.get(label, "")))
    return "\n\n".join(part for part in parts if part) + "\n"


def catalogue() -> str:
    """Return the list of all rules that are registered, by family, as text."""
    rules = registered().values()
    wide = max((len(r.name) for r in rules), default=0)
    parts = []
    for title, members in families():
        rows = [f"  {r.code}  {r.name:{wide}}  {r.severity:7}  {Page.of(r).line}" for r in members]
        parts.append("\n".join([title, *map(str.rstrip, rows)]))
    return "\n\n".join(parts) + "\n"


def rules_to_json(rules: Iterable[type[Rule]]) -> str:
    """Return the pages of rules as a JSON list."""
    return json.dumps([plain(Page.of(rule).to_dict()) for rule in rules], indent=2)


def _facts(content: Page) -> str:
    rule = content.rule
    rows = [
        ("severity", [str(rule.severity)]),
        ("symptom", [str(rule.symptom)]),
        ("looks at", [LOOKS_AT[rule.scope]]),
        ("leads to", titles(content.leads_to)),
        ("comes of", titles(content.caused_by)),
    ]
    return "\n".join(_list(label, items) for label, items in rows if items)


def _list(label: str, items: Sequence[str]) -> str:
    """Return items behind a label, wrapped between items only."""
    text = ", ".join(item.replace(" ", "\xa0") for item in items)
    lines = textwrap.wrap(text, WIDTH - LABELS, break_on_hyphens=False)
    whole = f"{label:{LABELS}}" + f"\n{' ' * LABELS}".join(lines)
    return whole.replace("\xa0", " ")


def _section(title: str, text: str) -> str:
    return f"{title}\n{textwrap.indent(text, '  ')}" if text else ""


def _thresholds(content: Page) -> Iterator[str]:
    """Yield a line for each threshold, and where they are changed."""
    if not content.thresholds:
        return
    wide = max(len(t.name) for t in content.thresholds)
    values = max(len(str(t.default)) for t in content.thresholds)
    for t in content.thresholds:
        yield f"{t.name:{wide}}  {t.default!s:{values}}  {t.meaning}".rstrip()
    yield f"[tool.trimtab.rules.{content.rule.code}] in pyproject.toml changes them."
