"""What the linter says of the same faults as source code, and of sound programs.

Each file in `programs/faulty` and `programs/clean` begins with comments: `# part:`, `# source:`,
and for a faulty one `# expects:` with the codes of which one has to be found.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Source:
    """One program as text."""

    name: str
    text: str
    part: str
    source: str
    expects: frozenset[str]

    @property
    def healthy(self) -> bool:
        """Whether nothing should be found."""
        return not self.expects


def sources() -> list[Source]:
    """Return all programs, in the order of their names."""
    return [_read(path) for path in sorted(FOLDER.rglob("*.py"))]


def _read(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    head = dict(re.findall(r"^# (part|source|expects): (.+)$", text, re.MULTILINE))
    codes = frozenset(re.findall(r"TT\d+", head.get("expects", "")))
    if (path.parent.name == "faulty") != bool(codes):
        raise ValueError(f"{path.name} is in the folder {path.parent.name!r}, but expects {codes}.")
    return Source(path.stem, text, head["part"], head["source"], codes)


def check_sources(part: str = "all", only: str = "") -> dict[str, Any]:
    """Lint all programs of a part, show what is wrong, and return the figures."""
    from trimtab.lint import lint_source

    figures: dict[str, Any] = {}
    rows = []
    for source in sources():
        if part not in {source.part, "all"} or not re.search(only, source.name):
            continue
        findings = lint_source(source.text, f"{source.name}.py")
        loud = [f for f in findings if f.severity != "advice"]
        codes = sorted({f.code for f in loud})
        right = not codes if source.healthy else bool(source.expects & set(codes))
        others = [] if source.healthy else sorted(set(codes) - source.expects)
        rows.append(
            {
                "program": source.name,
                "part": source.part,
                "expects": sorted(source.expects),
                "found": codes,
                "right": right,
            }
        )
        if not right or others:
            kind = "clean" if source.healthy else f"expects {'/'.join(sorted(source.expects))}"
            heard = "; ".join(f"{f.code} line {f.line}: {f.what}"[:90] for f in loud) or "nothing"
            print(f"{source.part[0]} {source.name:<38} {kind:<18} {heard}")
    for each in sorted({r["part"] for r in rows}):
        own = [r for r in rows if r["part"] == each]
        faulty = [r["right"] for r in own if r["expects"]]
        clean = [not r["right"] for r in own if not r["expects"]]
        figures[each] = {
            "found": [sum(faulty), len(faulty)],
            "false_alarms": [sum(clean), len(clean)],
        }
        print(f"source code, part {each!r}: {figures[each]}")
    return {"figures": figures, "rows": rows}
