"""Writes the pages of the rules from their docstrings: `make rules`.

With `--check` nothing is written: what is out of date is listed, and the exit status is 1.
"""

import re
import sys
from pathlib import Path

from trimtab.cli import load_rules
from trimtab.findings import FAMILIES, Rule, index_page, page, registered

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "rules"
SETTINGS = ROOT / "zensical.toml"
NAVIGATION = re.compile(r"(?<= written by `make rules`\n).*?(?=  # end of rules)", re.DOTALL)


def generated() -> dict[Path, str]:
    """Return what every file should hold."""
    load_rules()
    rules = list(registered().values())
    pages = {FOLDER / f"{rule.code.lower()}.md": page(rule) for rule in rules}
    settings = SETTINGS.read_text(encoding="utf-8")
    shown = NAVIGATION.sub(lambda _: navigation(rules), settings)
    return {FOLDER / "index.md": index_page(), **pages, SETTINGS: shown}


def navigation(rules: list[type[Rule]]) -> str:
    """Return the part of the navigation that leads to the rules."""
    lines = ['  { "Rules" = [', '    { "All rules" = "rules/index.md" },']
    for start, title in FAMILIES.items():
        members = [r for r in rules if r.code.startswith(start)]
        if members:
            lines.append(f'    {{ "{title}" = [')
            lines += [
                f'      {{ "{r.code} {r.name}" = "rules/{r.code.lower()}.md" }},' for r in members
            ]
            lines.append("    ] },")
    return "\n".join([*lines, "  ] },", ""])


def main(*, check: bool) -> int:
    """Write what differs and remove what no rule has; return 1 if that was only asked for."""
    wanted = generated()
    stale = [f for f in FOLDER.glob("*.md") if f not in wanted]
    changed = [
        f for f, text in wanted.items() if not f.exists() or f.read_text(encoding="utf-8") != text
    ]
    for file in [*changed, *stale]:
        print(file.relative_to(ROOT))
    if check:
        return 1 if changed or stale else 0
    FOLDER.mkdir(exist_ok=True)
    for file in changed:
        file.write_text(wanted[file], encoding="utf-8")
    for file in stale:
        file.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
