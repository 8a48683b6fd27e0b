"""`trimtab replay`: repeat a recorded incident, as it was and with one thing changed."""

import argparse
import difflib
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trimtab.cli._options import make_parser
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.guard import Bundle, Change, Experiment

CHANGES: Final = """\
changes:
  lr=0.5              multiply every learning rate
  lr_cap=0.001        bound every learning rate
  clip=0.5            clip gradients to this norm, in place of the run's own clipping
  precision=fp32      run the forward pass in fp32, bf16 or fp16
  fresh_moments=true  let the optimizer forget its moments first
  attention_cap=50    bound attention logits, where the attention is trimtab's
  optimizer=0         with lr, lr_cap or clip: of several optimizers this one alone
  without=151,152     leave the data of these steps out

Each --change is a replay of its own; several values behind one are changed together.
Exit status: 0 if the replay as it was is bit for bit what was recorded, else 1.
"""


def replay(args: list[str]) -> int:
    """Repeat a recorded incident: first as it was, then with each change."""
    parser = replay_parser()
    given = parser.parse_args(args)
    incident, words = _told_apart(given)
    if incident is None:
        parser.error("name the folder of an incident, such as runs/NAME/incidents/step-00000151")
    from trimtab.engine._replay_bundle import parse_changes, show

    changes = parse_changes(words)
    bundle = _read(incident)
    with redirect_stdout(sys.stderr):  # what the user's own code says
        rows = _rows(bundle, changes, given)
    if given.format == "json":
        print(json.dumps([row.to_dict() for row in rows], indent=2, allow_nan=False))
    else:
        print(bundle.incident, show(rows), sep="\n\n")
    return 0 if rows[0].reproduced else 1


def replay_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands behind `trimtab replay`."""
    parser = make_parser("replay", replay.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = CHANGES
    parser.usage = "trimtab replay INCIDENT [--change NAME=VALUE ...] [options]"
    parser.add_argument(
        "incident", nargs="?", type=Path, metavar="INCIDENT", help="The incident's folder."
    )
    parser.add_argument(
        "--change",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="Replay with this changed; may be given several times.",
    )
    parser.add_argument(
        "--build",
        metavar="MODULE:FUNCTION",
        help="Function from a seed to the run's TrainingSetup; FILE:FUNCTION works too. Runs of "
        "'trimtab train' need none.",
    )
    parser.add_argument(
        "--device", help="Where to replay a run of 'trimtab train'; default: as the run."
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    return parser


def _told_apart(given: argparse.Namespace) -> tuple[Path | None, list[list[str]]]:
    """Return incident and changes; an incident that stands behind --change is none of them."""
    incident, groups = given.incident, [list(group) for group in given.change]
    for group in groups:
        if incident is None and len(group) > 1 and "=" not in group[-1]:
            incident = Path(group.pop())
    return incident, groups


def _read(path: Path) -> "Bundle":
    """Read an incident.

    Raises:
        ConfigError: There is none.
    """
    from trimtab.guard import list_bundles, read_bundle

    try:
        return read_bundle(path)
    except ConfigError as error:
        for folder in (path, path / "incidents"):
            if inside := list_bundles(folder):
                several = len(inside) > 1
                held = f"{len(inside)} incidents" if several else "1 incident"
                name = "Name one, such as the newest" if several else "Name it"
                raise ConfigError(f"{path} holds {held}. {name}: {inside[-1]}.") from error
        beside = [p.name for p in list_bundles(path.parent)]
        if near := difflib.get_close_matches(path.name, beside, n=1):
            raise ConfigError(f"{error} Did you mean {path.parent / near[0]}?") from error
        raise


def _rows(
    bundle: "Bundle", changes: "list[Change]", given: argparse.Namespace
) -> "list[Experiment]":
    """Replay an incident.

    Raises:
        ConfigError: Nobody knows how the run was built.
    """
    if given.build is not None:
        from trimtab.audit._target import import_function
        from trimtab.engine import replay_bundle

        if given.device is not None:
            raise ConfigError(
                "--device is for runs of 'trimtab train'. With --build, the function decides where "
                "its model is."
            )
        return replay_bundle(bundle, import_function(given.build), changes=changes)
    from trimtab.recipes import RECIPES

    name = (bundle.config or {}).get("recipe")
    if name not in RECIPES:
        raise ConfigError(
            f"Incident {bundle.path} is not of a run of 'trimtab train', so only you know its "
            "model and loss. Pass --build MODULE:FUNCTION, a function from a seed to a "
            "trimtab.engine.TrainingSetup."
        )
    from trimtab.train import replay as replay_recipe

    return replay_recipe(RECIPES[name], bundle, changes=changes, device=given.device)
