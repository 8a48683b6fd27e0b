"""The commands `trimtab audit resume` and `trimtab audit accumulation`, without the printing."""

import argparse
import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from trimtab.audit._accumulation import audit_accumulation
from trimtab.audit._audit import Audit
from trimtab.audit._resume import audit_resume
from trimtab.audit._target import import_function
from trimtab.errors import ConfigError
from trimtab.findings import Selection

USAGE: Final = """\
usage: trimtab audit resume BUILD [options]
       trimtab audit accumulation BUILD [options]

Checks a training function of your own.

subjects:
  resume           train without a break, train again with one, and name what differs
  accumulation     one batch against the same batch in micro-batches

BUILD names a function, MODULE:FUNCTION or FILE:FUNCTION, from a seed to a
trimtab.engine.TrainingSetup. 'trimtab audit resume --help' shows every option.
"""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the command line asks for."""

    audit: Callable[[Selection], Audit]
    """Does it, with the rules that speak."""
    select: list[str] | None
    ignore: list[str] | None
    format: str
    """`"text"` or `"json"`."""
    exit_zero: bool


def audit_command(args: Sequence[str]) -> Given | None:
    """Return what is asked for; None for the help that `USAGE` is.

    Args:
        args: After `trimtab audit`.

    Raises:
        ConfigError: There is no such subject, or no such function.
    """
    if not args or args[0] in {"-h", "--help"}:
        return None
    subjects = {"resume": _resume, "accumulation": _accumulation}
    if args[0] not in subjects:
        near = difflib.get_close_matches(args[0], subjects, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"There is no audit of {args[0]!r}. {hint}Known are: resume, accumulation."
        )
    return subjects[args[0]](list(args[1:]))


def show(audit: Audit) -> str:
    """Return an audit as JSON."""
    return json.dumps(audit.to_dict(), indent=2, allow_nan=False)


def _resume(args: list[str]) -> Given:
    """Train without a break, train again with one, and name what differs, bit for bit."""
    parser = _parser("resume", _resume.__doc__)
    for name, what in (
        ("save", "your own save(setup), which returns the state"),
        ("load", "your own load(setup, state)"),
        ("run", "in place of both your whole run(setup, num_steps, folder), which trains until "
         "that step, goes on from what is in the folder, and saves there"),
    ):  # fmt: skip
        help_text = f"{what[0].upper()}{what[1:]}; MODULE:FUNCTION."
        parser.add_argument(f"--{name}", metavar="FUNCTION", help=help_text)
    parser.add_argument("--steps", type=int, default=10, help="Of the whole run (default: 10).")
    parser.add_argument("--stop", type=int, help="Steps before the break (default: the half).")
    given = parser.parse_intermixed_args(args)
    build = import_function(given.build)
    own = {k: import_function(v) for k in ("save", "load", "run") if (v := getattr(given, k))}

    def audit(selection: Selection) -> Audit:
        return audit_resume(
            build,
            steps=given.steps,
            stop=given.stop,
            seed=given.seed,
            selection=selection,
            **own,
        )

    return _given(given, audit)


def _accumulation(args: list[str]) -> Given:
    """Make one step of a batch in micro-batches, and name how it differs from the whole batch."""
    parser = _parser("accumulation", _accumulation.__doc__)
    parser.add_argument(
        "--accumulate",
        metavar="FUNCTION",
        help="Your own accumulate(setup, micro_batches), which makes one optimizer step of a list "
        "of (x, y); MODULE:FUNCTION. Default: the setup's train_step, else trimtab.Stepper.",
    )
    parser.add_argument(
        "--micro-batches", type=int, default=4, help="How many for a step (default: 4)."
    )
    given = parser.parse_intermixed_args(args)
    build = import_function(given.build)
    own = import_function(given.accumulate) if given.accumulate else None

    def audit(selection: Selection) -> Audit:
        return audit_accumulation(
            build,
            accumulate=own,
            micro_batches=given.micro_batches,
            seed=given.seed,
            selection=selection,
        )

    return _given(given, audit)


def _parser(subject: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"trimtab audit {subject}", description=description, allow_abbrev=False
    )
    parser.add_argument(
        "build",
        metavar="BUILD",
        help="Function from a seed to a TrainingSetup: MODULE:FUNCTION or FILE:FUNCTION.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the run (default: 0).")
    for name, what in (("select", "speak, in place of the project's"), ("ignore", "are silent")):
        parser.add_argument(
            f"--{name}",
            type=_words,
            action="extend",
            metavar="RULES",
            help=f"Rules that {what}: codes, beginnings of codes or names, with commas between.",
        )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("--exit-zero", action="store_true", help="Return 0 in spite of findings.")
    return parser


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _given(given: argparse.Namespace, audit: Callable[[Selection], Audit]) -> Given:
    return Given(
        audit=audit,
        select=given.select,
        ignore=given.ignore,
        format=given.format,
        exit_zero=given.exit_zero,
    )
