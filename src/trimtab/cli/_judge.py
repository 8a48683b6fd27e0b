"""`trimtab check`, `diagnose` and `explain`: faults, and what findings mean."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trimtab.cli._options import make_parser, show_warning, split_words
from trimtab.errors import ConfigError
from trimtab.findings import (
    Finding,
    Rule,
    Selection,
    catalogue,
    find_rule,
    index_page,
    page,
    print_findings,
    registered,
    rules_to_json,
    summarise,
    to_sarif,
)
from trimtab.findings import (
    explain as explain_rule,
)

JUDGES: Final = ("audit", "diagnosis", "guard", "lint", "preflight", "rules")
"""Packages that register rules when they are imported."""


def check(args: list[str]) -> int:
    """Look for faults in the source code of training loops; nothing is executed."""
    parser = _judging_parser("check", check.__doc__)
    parser.add_argument(
        "paths", nargs="*", type=Path, default=[Path()], metavar="PATH", help="Files and folders."
    )
    parser.add_argument("--fix", action="store_true", help="Repair what can be repaired safely.")
    diff_help = "Print what --fix would change as a patch, and change nothing."
    parser.add_argument("--diff", action="store_true", help=diff_help)
    given = parser.parse_intermixed_args(args)
    if given.diff and given.format != "text":
        parser.error("--diff prints a patch; leave --format out")
    from trimtab.lint import check_command

    selection = select_rules(given.select, given.ignore)
    result = check_command(given.paths, selection, fix=given.fix, diff=given.diff)
    for reason in result.unread:
        show_warning(reason)
    if not result.num_files:
        show_warning("There is no Python file or notebook to check.")
    if result.changed:
        done = "Would repair" if given.diff else "Repaired"
        print(f"{done} {', '.join(result.changed)}.", file=sys.stderr)
    if given.diff:
        print(result.diff, end="")
        print(f"Left without a repair: {summarise(result.findings)}", file=sys.stderr)
        return 1 if (result.findings or result.changed) and not given.exit_zero else 0
    return _show(result.findings, given, selection.rules("source"))


def diagnose(args: list[str]) -> int:
    """Say what went wrong in a recorded run, and what to do."""
    parser = _judging_parser("diagnose", diagnose.__doc__)
    run_help = "The run's folder; default: the newest one under runs/."
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help=run_help)
    given = parser.parse_intermixed_args(args)
    from trimtab.rules import diagnose_run

    rules = select_rules(given.select, given.ignore).rules("run")
    return _show(diagnose_run(given.run or _newest(), rules), given, rules)


def explain(args: list[str]) -> int:
    """Say what a finding means: why it matters, how it is measured, and what to do."""
    parser = make_parser("explain", explain.__doc__)
    parser.add_argument("rules", nargs="*", metavar="RULE", help="Code or name, such as TT301.")
    parser.add_argument("--all", action="store_true", help="List all rules.")
    parser.add_argument("--format", choices=["text", "json", "markdown"], default="text")
    given = parser.parse_intermixed_args(args)
    if bool(given.rules) == given.all:
        parser.error("name rules by code or name, or list them with --all")
    load_rules()
    try:
        _project()
    except ConfigError as error:  # of which the list of rules may be the remedy
        show_warning(str(error))
    rules = list(registered().values()) if given.all else [find_rule(r) for r in given.rules]
    texts = {
        "json": lambda: rules_to_json(rules) + "\n",
        "markdown": lambda: index_page() if given.all else "\n".join(map(page, rules)),
        "text": lambda: (
            catalogue() if given.all else "\n".join(explain_rule(r.code) for r in rules)
        ),
    }
    print(texts[given.format](), end="")
    return 0


def _explanation(rule: type[Rule]) -> str:
    return explain_rule(rule.code)


def load_rules() -> None:
    """Import every package of trimtab that registers rules."""
    for package in JUDGES:
        importlib.import_module(f"trimtab.{package}")
    importlib.import_module("trimtab.rules").load_rules()


def _judging_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of what judges."""
    parser = make_parser(command, description)
    for name, what in (("select", "speak, in place of the project's"), ("ignore", "are silent")):
        parser.add_argument(
            f"--{name}",
            type=split_words,
            action="extend",
            metavar="RULES",
            help=f"Rules that {what}: codes, beginnings of codes or names, with commas between.",
        )
    parser.add_argument("--format", choices=["text", "json", "sarif"], default="text")
    parser.add_argument("--exit-zero", action="store_true", help="Return 0 in spite of findings.")
    return parser


def select_rules(select: Sequence[str] | None, ignore: Sequence[str] | None) -> Selection:
    """Return the project's selection with the options over it."""
    load_rules()
    return _project().override(select=select, ignore=ignore)


def _project() -> Selection:
    return Selection.from_pyproject(Path.cwd())


def _newest() -> Path:
    from trimtab.report import newest_run

    return newest_run()


def _show(findings: Sequence[Finding], given: argparse.Namespace, rules: Sequence[Rule]) -> int:
    """Print findings in the format that was asked for; return the exit status."""
    from trimtab.findings import to_json

    if given.format == "text":
        print_findings(findings, sys.stdout)
    else:
        print(to_json(findings) if given.format == "json" else to_sarif(findings, rules))
    return 1 if findings and not given.exit_zero else 0
