"""Comments that silence findings: `# trimtab: ignore[TT701]`, on a line or for a whole file."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable
from typing import Final

from trimtab.findings import Finding
from trimtab.lint._source import Source

COMMENT: Final = re.compile(
    r"#\s*trimtab:\s*ignore(?P<file>-file)?\s*(?:\[(?P<rules>[^\]]*)\])?", re.IGNORECASE
)


def unsuppressed(source: Source, findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that no comment silences.

    `# trimtab: ignore` silences all rules on its statement's lines, `# trimtab: ignore[TT701,
    data-write]` those of these codes or names, `# trimtab: ignore-file` the same in the whole file.
    """
    if "trimtab:" not in source.text:
        return list(findings)
    whole, lines = _comments(source.text)
    spans = _spans(source)
    return [
        f
        for f in findings
        if not _silences(whole, f)
        and not any(
            _silences(lines.get(n, set()), f) for n in spans.get(f.line or 0, {f.line or 0})
        )
    ]


def _silences(rules: set[str], finding: Finding) -> bool:
    return bool(rules & {"", finding.code.lower(), finding.name.lower()})


def _comments(text: str) -> tuple[set[str], dict[int, set[str]]]:
    """Return what is silenced in the file, and on each line; "" stands for every rule."""
    whole: set[str] = set()
    lines: dict[int, set[str]] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type != tokenize.COMMENT:
                continue
            for match in COMMENT.finditer(token.string):
                named = match["rules"]
                rules = {""} if named is None else {r.strip().lower() for r in named.split(",")}
                rules = rules if named is None else rules - {""}
                if match["file"]:
                    whole |= rules
                else:
                    lines.setdefault(token.start[0], set()).update(rules)
    except (tokenize.TokenError, IndentationError):
        pass
    return whole, lines


def _spans(source: Source) -> dict[int, set[int]]:
    """Return, for each line of a statement over several, all its lines; of a block, its head's."""
    spans: dict[int, set[int]] = {}
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.stmt) or node.end_lineno is None:
            continue
        body = getattr(node, "body", None)
        end = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno
        lines = set(range(node.lineno, max(end, node.lineno) + 1))
        for line in lines:
            if len(lines) < len(spans.get(line, lines | {0})):
                spans[line] = lines
    return spans
