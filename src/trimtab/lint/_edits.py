"""Changes of text that repair a fault, and how they are applied."""

import ast
from collections.abc import Iterable, Sequence
from typing import Any, Final

from trimtab.findings import Finding, Fix
from trimtab.lint._source import Source

ACTION: Final = "edit"
"""What a finding's remedy is called that changes text."""

Edit = tuple[int, int, int, int, str]
"""First line and column, last line and column, and what takes their place.

Lines and columns are counted from 1, in characters; the last one is not part of what is replaced.
"""


def edit_fix(*edits: Edit | None) -> Fix | None:
    """Return a remedy that makes these changes together; None if one of them is not possible."""
    if not edits or any(e is None for e in edits):
        return None
    return Fix(action=ACTION, args={"edits": [list(e) for e in edits if e is not None]})


def replace_node(source: Source, node: ast.expr | ast.stmt, text: str) -> Edit | None:
    """Return the change of a node's text to another."""
    if node.end_lineno is None or node.end_col_offset is None:
        return None
    return (
        node.lineno,
        source.column(node.lineno, node.col_offset),
        node.end_lineno,
        source.column(node.end_lineno, node.end_col_offset),
        text,
    )


def insert_after_node(source: Source, node: ast.expr, text: str) -> Edit | None:
    """Return the insertion of text right behind a node."""
    if node.end_lineno is None or node.end_col_offset is None:
        return None
    column = source.column(node.end_lineno, node.end_col_offset)
    return (node.end_lineno, column, node.end_lineno, column, text)


def is_alone(source: Source, stmt: ast.stmt) -> bool:
    """Tell whether a statement has its lines to itself."""
    if stmt.end_lineno is None or stmt.end_col_offset is None:
        return False
    before = source.lines[stmt.lineno - 1].encode()[: stmt.col_offset]
    after = source.lines[stmt.end_lineno - 1].encode()[stmt.end_col_offset :].strip()
    return not before.strip() and (not after or after.startswith(b"#"))


def insert_before(source: Source, stmt: ast.stmt, line: str) -> Edit | None:
    """Return the insertion of a line in front of a statement."""
    if not is_alone(source, stmt):
        return None
    return (stmt.lineno, 1, stmt.lineno, 1, _indented(source, stmt, line))


def insert_after(source: Source, stmt: ast.stmt, line: str) -> Edit | None:
    """Return the insertion of a line behind a statement."""
    if not is_alone(source, stmt) or stmt.end_lineno is None:
        return None
    text = _indented(source, stmt, line)
    last = source.lines[stmt.end_lineno - 1]
    if not last.endswith(("\n", "\r")):  # the file's last line has no end
        end = len(last) + 1
        return (stmt.end_lineno, end, stmt.end_lineno, end, "\n" + text.rstrip("\n"))
    return (stmt.end_lineno + 1, 1, stmt.end_lineno + 1, 1, text)


def delete_line(source: Source, stmt: ast.stmt) -> Edit | None:
    """Return the removal of a statement with its lines."""
    if not is_alone(source, stmt) or stmt.end_lineno is None or _is_only(source, stmt):
        return None
    return (stmt.lineno, 1, stmt.end_lineno + 1, 1, "")


def _indented(source: Source, stmt: ast.stmt, line: str) -> str:
    first = source.lines[stmt.lineno - 1]
    indent = first[: len(first) - len(first.lstrip())]
    end = "\r\n" if first.endswith("\r\n") else "\n"
    return f"{indent}{line}{end}"


def _is_only(source: Source, stmt: ast.stmt) -> bool:
    parent = source.parent(stmt)
    blocks = (getattr(parent, name, None) for name in ("body", "orelse", "finalbody"))
    return any(isinstance(b, list) and b == [stmt] for b in blocks)


def same_block(source: Source, first: ast.AST, second: ast.AST) -> bool:
    """Tell whether two nodes are in statements side by side."""
    a, b = source.statement(first), source.statement(second)
    parent = source.parent(a)
    if parent is not source.parent(b):
        return False
    blocks = (getattr(parent, name, None) for name in ("body", "orelse", "finalbody"))
    return any(isinstance(block, list) and a in block and b in block for block in blocks)


def edits_of(finding: Finding) -> list[Edit]:
    """Return the changes that a finding asks for; empty if it has no such remedy."""
    if finding.remedy is None or finding.remedy.action != ACTION:
        return []
    edits: Sequence[Sequence[Any]] = finding.remedy.args.get("edits", ())
    return [(int(a), int(b), int(c), int(d), str(text)) for a, b, c, d, text in edits]


def apply_fixes(text: str, findings: Iterable[Finding]) -> str:
    """Return a text with the changes that findings ask for.

    What overlaps with an earlier finding's change is left out, and so is what would leave a text
    that is not Python; lint the result again to find what is left.

    Args:
        text: That the findings are about.
        findings: Of one file; those without a remedy are passed over.
    """
    chosen: list[tuple[int, int, str]] = []
    starts = _starts(text)
    for finding in sorted(findings, key=lambda f: (f.line or 0, f.column or 0)):
        wanted = [
            (starts[a - 1] + b - 1, starts[c - 1] + d - 1, new)
            for a, b, c, d, new in edits_of(finding)
        ]
        if not wanted or any(_overlap(w, c) for w in wanted for c in chosen):
            continue
        if _parses(_change(text, [*chosen, *wanted])):
            chosen += wanted
    return _change(text, chosen)


def _starts(text: str) -> list[int]:
    import io

    starts, total = [0], 0
    for line in io.StringIO(text, newline=""):
        total += len(line)
        starts.append(total)
    return [*starts, total]


def _change(text: str, edits: Iterable[tuple[int, int, str]]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _overlap(first: tuple[int, int, str], second: tuple[int, int, str]) -> bool:
    (a, b, _), (c, d, _) = first, second
    return (a, b) == (c, d) or (a < d and c < b)


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True
