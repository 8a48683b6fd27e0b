"""`trimtab audit`: check a training function of your own."""

import sys
from contextlib import nullcontext, redirect_stdout

from trimtab.cli._judge import select_rules


def audit(args: list[str]) -> int:
    """Check that a training function resumes exactly, or accumulates as it should."""
    from trimtab.audit._command import USAGE, audit_command, show

    asks_for_help = not {"-h", "--help"}.isdisjoint(args)
    with nullcontext() if asks_for_help else redirect_stdout(sys.stderr):
        given = audit_command(args)  # imports the user's own code, which may say something
    if given is None:
        print(USAGE, end="")
        return 0
    with redirect_stdout(sys.stderr):
        result = given.audit(select_rules(given.select, given.ignore))
    if given.format == "json":
        print(show(result))
    else:
        print(result, end="")
    return 1 if result.findings and not given.exit_zero else 0
