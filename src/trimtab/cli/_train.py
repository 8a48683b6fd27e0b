"""`trimtab train`: train a recipe."""

import argparse
from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

from trimtab.cli._options import flag
from trimtab.errors import ConfigError

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


@dataclass(frozen=True)
class _Request:
    """What the command line asks for before its settings are read."""

    recipe: str | None
    config: Path | None
    out: Path | None
    resume: bool


def train(args: list[str]) -> int:
    """Train a recipe; print its summary."""
    from trimtab.recipes import RECIPES, find_recipe
    from trimtab.train import to_json, to_toml
    from trimtab.train import train as run

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
    summary = run(recipe, options.settings, resume=options.resume)
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
            ("resume", flag("Go on with the run in --out, or with the newest one."), False),
            (
                "json",
                flag("Print the summary as JSON, as the last line of standard output."),
                False,
            ),
            ("print_config", flag("Print the effective settings as TOML and stop."), False),
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


def _print_summary(summary: dict[str, Any]) -> None:
    for key, value in summary.items():
        form = {"seconds": ".1f"}.get(key, {float: ".4f", int: ","}.get(type(value), ""))
        lines = (value or ["none"]) if isinstance(value, list) else [f"{value:{form}}"]
        for name, line in zip([key, *[""] * len(lines)], lines, strict=False):
            print(f"{name:>15}  {line}")
