"""Which command was asked for, and with what status it ends."""

import difflib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Final, TextIO

from trimtab import __version__
from trimtab.cli._audit import audit
from trimtab.cli._judge import check, diagnose, explain
from trimtab.cli._options import show_warning
from trimtab.cli._replay import replay
from trimtab.cli._runs import report, watch
from trimtab.cli._train import train
from trimtab.errors import ConfigError, TrimtabError

EXTRA: Final = {
    "matplotlib",
    "polars",
    "pyarrow",
    "rich",
    "safetensors",
    "sklearn",
    "tomlkit",
    "tyro",
}
"""Packages of the `train` extra."""

USAGE: Final = """\
usage: trimtab COMMAND [options]

Keeps the training of deep networks stable.

commands:
  train [RECIPE]   train a network with every stabilising technique on
                   (recipes: gpt, the default, and stablenet)
  watch [RUN]      show a run on the terminal while it goes on
  report [RUN [RUN2]]
                   write an HTML page about a run, or about two side by side
                   (without RUN: the newest one under runs/)
  check [PATH...]  look for faults in the source code of training loops
  diagnose [RUN]   say what went wrong in a run, and what to do
  replay INCIDENT  repeat what went wrong, as it was and with one thing changed
  audit SUBJECT BUILD
                   check a training function of your own
                   (subjects: resume and accumulation)
  explain RULE...  say what a finding means; --all lists the rules

options:
  -h, --help       show this help; 'trimtab train --help' shows every option of a command
  --version        show the version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0: done. 1: the run diverged, its state is damaged, or there are findings. 2: wrong usage or
    settings; nothing was written. 130: stopped by Ctrl-C or SIGTERM, and saved. 141: nobody reads
    the output any more.

    Raises:
        BrokenPipeError: A pipe is broken that is not the standard output.
        ModuleNotFoundError: A package is missing that is none of the `train` extra's.
    """
    try:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _closed(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141


def _closed(stream: TextIO) -> bool:
    """Tell whether nobody reads a stream, as after `| head`."""
    try:
        print(file=stream, flush=True)
    except BrokenPipeError:
        return True
    return False


def _main(args: list[str]) -> int:
    """Run a command.

    Raises:
        ModuleNotFoundError: A package is missing that is none of the `train` extra's.
    """
    if not args or args[0] in {"-h", "--help", "help"}:
        print(USAGE, end="")
        return 0
    if args[0] == "--version":
        print(f"trimtab {__version__}")
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            return _command(args[0])(args[1:])
        except ConfigError as error:
            return _fail(str(error), 2)
        except TrimtabError as error:
            return _fail(str(error), 1)
        except ModuleNotFoundError as error:
            if error.name not in EXTRA:
                raise
            return _fail(f"This needs {error.name}: pip install 'trimtab[train]'.", 2)
        except KeyboardInterrupt:
            return _fail("Interrupted.", 130)


def _fail(message: str, status: int) -> int:
    print(f"trimtab: {message}", file=sys.stderr)
    return status


def _command(name: str) -> Callable[[list[str]], int]:
    """Return the function of a command.

    Raises:
        ConfigError: There is no such command.
    """
    commands = {
        "train": train,
        "watch": watch,
        "report": report,
        "check": check,
        "diagnose": diagnose,
        "replay": replay,
        "audit": audit,
        "explain": explain,
    }
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        known = ", ".join(commands)
        raise ConfigError(
            f"There is no command {name!r}. {hint}Known are: {known}. See trimtab --help."
        )
    return commands[name]
