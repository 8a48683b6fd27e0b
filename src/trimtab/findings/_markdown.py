"""The pages of the catalogue as Markdown: one for each rule, and an index."""

from collections.abc import Iterator, Sequence

from trimtab.findings._page import LOOKS_AT, TITLES, Page, example, good, titles
from trimtab.findings._rule import FAMILIES, Rule, registered

_NOT_RUN = "<!-- not run: the rule's own test runs it -->"


def page(rule: type[Rule]) -> str:
    """Return a rule's page: what a finding means, why it matters, what to do."""
    return "\n\n".join(_parts(Page.of(rule))) + "\n"


def index_page() -> str:
    """Return the table of all rules that are registered, by family, with links to their pages."""
    parts = [
        "# Rules",
        "Every finding has a code. Its page says what it means, why it matters, how it is measured "
        "and what to do; `trimtab explain CODE` prints the same in a terminal.",
    ]
    for title, rules in families():
        rows = [
            f"| [{r.code}]({r.code.lower()}.md) | {r.name} | {r.severity} | {_line(r)} |"
            for r in rules
        ]
        head = "| code | fault | severity | meaning |\n| --- | --- | --- | --- |\n"
        parts += [f"## {title}", head + "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def families() -> Iterator[tuple[str, list[type[Rule]]]]:
    """Yield each family that has rules, and its rules; last those of others."""
    rules = list(registered().values())
    for start, title in FAMILIES.items():
        if members := [r for r in rules if r.code.startswith(start)]:
            yield title, members
    if others := [r for r in rules if r.code[:3] not in FAMILIES]:
        yield "Further rules", others


def _line(rule: type[Rule]) -> str:
    return _cell(Page.of(rule).line)


def _parts(content: Page) -> Iterator[str]:
    """Yield the paragraphs of a page."""
    rule = content.rule
    yield f"# {rule.code} {rule.name}"
    if content.summary:
        yield content.summary
    yield (
        "| severity | symptom | looks at |\n| --- | --- | --- |\n"
        f"| {rule.severity} | `{rule.symptom}` | {LOOKS_AT[rule.scope]} |"
    )
    for label, title in TITLES.items():
        if label == "Fix":
            for heading, code in (("Example", example(rule)), ("Without the fault", good(rule))):
                if code:
                    yield f"## {heading}"
                    yield _fenced(code)
        if label == "Source":
            yield from _thresholds(content)
            yield from _related(content)
        if text := content.sections.get(label):
            yield f"## {title}"
            yield text


def _fenced(code: str) -> str:
    """Return a block of code, marked so that the documentation's test leaves it alone."""
    try:
        compile(code, "example", "exec", dont_inherit=True)
    except SyntaxError:
        return f"```text\n{code}\n```"
    return f"{_NOT_RUN}\n```python\n{code}\n```"


def _thresholds(content: Page) -> Iterator[str]:
    if not content.thresholds:
        return
    yield "## Thresholds"
    yield f"`[tool.trimtab.rules.{content.rule.code}]` in `pyproject.toml` changes them."
    rows = [
        f"| `{t.name}` | `{_cell(str(t.default))}` | {_cell(t.meaning)} |"
        for t in content.thresholds
    ]
    yield "\n".join(["| name | default | meaning |", "| --- | --- | --- |", *rows])


def _related(content: Page) -> Iterator[str]:
    if content.leads_to or content.caused_by:
        yield "## Related"
    if content.leads_to:
        yield f"It can lead to {_links(content.leads_to)}."
    if content.caused_by:
        yield f"It can be brought about by {_links(content.caused_by)}."


def _links(rules: Sequence[type[Rule]]) -> str:
    pairs = zip(titles(rules), rules, strict=True)
    return ", ".join(f"[{title}]({rule.code.lower()}.md)" for title, rule in pairs)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
