"""The trimtab command."""

import argparse
import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

from trimtab import __version__
from trimtab.errors import ConfigError, TrimtabError
from trimtab.findings import (
    Finding,
    Rule,
    Selection,
    catalogue,
    explain,
    find_rule,
    index_page,
    page,
    print_findings,
    registered,
    rules_to_json,
    summarise,
    to_sarif,
)

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

FREE_ON_RESUME: Final = {
    "device",
    "eval_every",
    "keep_checkpoints",
    "out",
    "save_every",
    "threads",
    "watch",
}
"""Settings that a resumed run may change: they do not decide its numbers."""

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
  explain RULE...  say what a finding means; --all lists the rules

options:
  -h, --help       show this help; 'trimtab train --help' shows every option of a command
  --version        show the version
"""


JUDGES: Final = ("diagnosis", "lint", "preflight", "rules")
"""Packages that register rules when they are imported."""


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
        warnings.showwarning = _show_warning
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


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _command(name: str) -> Callable[[list[str]], int]:
    """Return the function of a command.

    Raises:
        ConfigError: There is no such command.
    """
    commands = {
        "train": _train,
        "watch": _watch,
        "report": _report,
        "check": _check,
        "diagnose": _diagnose,
        "explain": _explain,
    }
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        known = ", ".join(commands)
        raise ConfigError(
            f"There is no command {name!r}. {hint}Known are: {known}. See trimtab --help."
        )
    return commands[name]


@dataclass(frozen=True)
class _Request:
    """What the command line asks for before its settings are read."""

    recipe: str | None
    config: Path | None
    out: Path | None
    resume: bool


def _train(args: list[str]) -> int:
    """Train a recipe; print its summary."""
    from trimtab.recipes import RECIPES, find_recipe
    from trimtab.train import to_json, to_toml, train

    recipe_name = args.pop(0) if args and not args[0].startswith("-") else None
    request = _peek(recipe_name, args)
    name, base = _base_settings(request)
    recipe = find_recipe(name or next(iter(RECIPES)))
    config = base if base is not None else recipe.default
    options = _parse(args, recipe.name, config)
    if options.resume:
        _refuse_changes(config, options.settings)
    if options.print_config:
        print(to_toml(options.settings, recipe=recipe.name), end="")
        return 0
    summary = train(recipe, options.settings, resume=options.resume)
    if options.json:
        print(to_json(summary), flush=True)
    else:
        _print_summary(summary)
    return {"finished": 0, "diverged": 1}.get(summary["stopped"], 130)


def _peek(recipe: str | None, args: list[str]) -> _Request:
    """Read what decides where the other options' defaults come from.

    Raises:
        ConfigError: An option lacks its value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    try:
        known, _ = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}.") from error
    return _Request(recipe, known.config, known.out, known.resume)


def _base_settings(request: _Request) -> tuple[str | None, Any]:
    """Return recipe name and settings of a file or of the run to resume; None for the defaults.

    Raises:
        ConfigError: The file cannot be used, or is of another recipe.
    """
    from trimtab.recipes import find_recipe
    from trimtab.train import RunFolder, apply_settings, newest_folder, read_toml

    path, out = request.config, request.out
    if request.resume:
        if path is not None:
            raise ConfigError("--resume goes on with the run's own settings. Leave out --config.")
        out = out or newest_folder(request.recipe or "gpt")
        path = RunFolder(out).config
        if not path.exists():
            raise ConfigError(f"{out} holds no run to resume: it has no {path.name}.")
    if path is None:
        return request.recipe, None
    settings = read_toml(path)
    name = settings.pop("recipe", request.recipe or "gpt")
    if request.recipe not in {None, name}:
        raise ConfigError(f"{path} is for the recipe {name!r}, not {request.recipe!r}.")
    config: Any = apply_settings(find_recipe(name).default, settings, str(path))
    if request.resume:
        config = replace(config, run=replace(config.run, out=out))
    return name, config


def _parse(args: list[str], recipe: str, config: object) -> Any:
    """Return the options, with `settings` of the recipe's own type."""
    import tyro

    file_help = "TOML file with settings, as --print-config prints them; options go over it."
    options = make_dataclass(
        "Options",
        [
            ("settings", type(config), config),
            ("config", Annotated[Path | None, tyro.conf.arg(help=file_help)], None),
            ("resume", _flag("Go on with the run in --out, or with the newest one."), False),
            (
                "json",
                _flag("Print the summary as JSON, as the last line of standard output."),
                False,
            ),
            ("print_config", _flag("Print the effective settings as TOML and stop."), False),
        ],
        frozen=True,
    )
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[options],  # type: ignore[valid-type, misc] # made at run time
        prog=f"trimtab train {recipe}",
        description=type(config).__doc__,
        args=args,
    )


def _refuse_changes(saved: object, asked: object) -> None:
    """Refuse to resume with settings that would make another run of it.

    Raises:
        ConfigError: One differs.
    """
    for field in fields(saved):  # type: ignore[arg-type] # any dataclass
        old, new = getattr(saved, field.name), getattr(asked, field.name)
        if is_dataclass(old):
            _refuse_changes(old, new)
        elif old != new and field.name not in FREE_ON_RESUME:
            raise ConfigError(
                f"The run to resume has {field.name} = {old}; with {new} it would not go on but be "
                "another run. Leave the option out, or start a new run."
            )


def _flag(help_text: str) -> Any:
    import tyro

    return Annotated[bool, tyro.conf.arg(help=help_text), tyro.conf.FlagCreatePairsOff]


def _watch(args: list[str]) -> int:
    """Show a run on the terminal."""
    import tyro

    from trimtab.report import newest_run, watch

    run_help = "The run's folder; default: the newest one under runs/."
    folder: Any = Annotated[Path | None, tyro.conf.arg(help=run_help, metavar="[RUN]")]
    options: Any = make_dataclass(
        "Options",
        [
            ("run", tyro.conf.Positional[folder], None),  # type: ignore[misc] # made at run time
            ("once", _flag("Show what there is now, and stop."), False),
        ],
    )
    given = tyro.cli(options, prog="trimtab watch", description=_watch.__doc__, args=args)
    watch(given.run or newest_run(), once=given.once)
    return 0


def _report(args: list[str]) -> int:
    """Write an HTML page about a run, or about two runs side by side."""
    import tyro

    from trimtab.report import newest_run, write_report

    run_help = "Folders of one run or two; default: the newest one under runs/."
    folders: Any = Annotated[tuple[Path, ...], tyro.conf.arg(help=run_help, metavar="[RUN [RUN2]]")]
    out = Annotated[Path | None, tyro.conf.arg(help="The page; default: report.html in RUN.")]
    options: Any = make_dataclass(
        "Options",
        [
            ("run", tyro.conf.Positional[folders], ()),  # type: ignore[misc] # made at run time
            ("out", out, None),
            ("open", _flag("Open the page in the browser."), False),
        ],
    )
    given = tyro.cli(options, prog="trimtab report", description=_report.__doc__, args=args)
    path = write_report(given.run or (newest_run(),), given.out)
    print(path)
    if given.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0


def _check(args: list[str]) -> int:
    """Look for faults in the source code of training loops; nothing is executed."""
    parser = _judging_parser("check", _check.__doc__)
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

    selection = _selection(given)
    result = check_command(given.paths, selection, fix=given.fix, diff=given.diff)
    for reason in result.unread:
        _show_warning(reason)
    if not result.num_files:
        _show_warning("There is no Python file or notebook to check.")
    if result.changed:
        done = "Would repair" if given.diff else "Repaired"
        print(f"{done} {', '.join(result.changed)}.", file=sys.stderr)
    if given.diff:
        print(result.diff, end="")
        print(f"Left without a repair: {summarise(result.findings)}", file=sys.stderr)
        return 1 if (result.findings or result.changed) and not given.exit_zero else 0
    return _show(result.findings, given, selection.rules("source"))


def _diagnose(args: list[str]) -> int:
    """Say what went wrong in a recorded run, and what to do."""
    parser = _judging_parser("diagnose", _diagnose.__doc__)
    run_help = "The run's folder; default: the newest one under runs/."
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help=run_help)
    given = parser.parse_intermixed_args(args)
    from trimtab.rules import diagnose_run

    rules = _selection(given).rules("run")
    return _show(diagnose_run(given.run or _newest(), rules), given, rules)


def _explain(args: list[str]) -> int:
    """Say what a finding means: why it matters, how it is measured, and what to do."""
    parser = _parser("explain", _explain.__doc__)
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
        _show_warning(str(error))
    rules = list(registered().values()) if given.all else [find_rule(r) for r in given.rules]
    texts = {
        "json": lambda: rules_to_json(rules) + "\n",
        "markdown": lambda: index_page() if given.all else "\n".join(map(page, rules)),
        "text": lambda: catalogue() if given.all else "\n".join(explain(r.code) for r in rules),
    }
    print(texts[given.format](), end="")
    return 0


def load_rules() -> None:
    """Import every package of trimtab that registers rules."""
    for package in JUDGES:
        importlib.import_module(f"trimtab.{package}")
    importlib.import_module("trimtab.rules").load_rules()


def _parser(command: str, description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"trimtab {command}", description=description, allow_abbrev=False
    )


def _judging_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of what judges."""
    parser = _parser(command, description)
    for name, what in (("select", "speak, in place of the project's"), ("ignore", "are silent")):
        parser.add_argument(
            f"--{name}",
            type=_words,
            action="extend",
            metavar="RULES",
            help=f"Rules that {what}: codes, beginnings of codes or names, with commas between.",
        )
    parser.add_argument("--format", choices=["text", "json", "sarif"], default="text")
    parser.add_argument("--exit-zero", action="store_true", help="Return 0 in spite of findings.")
    return parser


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _selection(given: argparse.Namespace) -> Selection:
    """Return the project's selection with the options over it."""
    load_rules()
    return _project().override(select=given.select, ignore=given.ignore)


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


def _print_summary(summary: dict[str, Any]) -> None:
    for key, value in summary.items():
        form = {"seconds": ".1f"}.get(key, {float: ".4f", int: ","}.get(type(value), ""))
        lines = (value or ["none"]) if isinstance(value, list) else [f"{value:{form}}"]
        for name, line in zip([key, *[""] * len(lines)], lines, strict=False):
            print(f"{name:>15}  {line}")


if __name__ == "__main__":
    sys.exit(main())
