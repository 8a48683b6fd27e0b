"""Which checkpoints stay when a new one has been written: the healthy ones come first."""

from pathlib import Path

from trimtab.checkpoint._atomic import remove_folder
from trimtab.checkpoint._manifest import read_manifest
from trimtab.errors import StateError


def drop_outdated(folder: Path, written: Path, keep: int) -> None:
    """Remove what the checkpoint just written makes outdated.

    The newest `keep` healthy ones stay. Of those taken inside an incident the newest stays, and
    only while no healthy one is newer. A healthy one also removes those of later steps: the run has
    gone back before them, and going on from one of them would bring back what it left behind.

    Args:
        folder: Of checkpoints.
        written: The new one; always stays.
        keep: At least 1.
    """
    now = step_of(written)
    health = {path: is_healthy(path) for path in by_step(folder)}
    good = [p for p, healthy in health.items() if healthy]
    bad = [p for p, healthy in health.items() if healthy is False]
    if health[written]:
        good, bad = [p for p in good if step_of(p) <= now], []
    newest = step_of(good[-1]) if good else -1
    staying = {written, *good[-keep:], *(p for p in bad[-1:] if step_of(p) > newest)}
    # One that cannot be read may be of a later trimtab: it stays until it is the oldest.
    oldest = step_of(good[-keep:][0]) if len(good) >= keep else -1
    staying |= {p for p, healthy in health.items() if healthy is None and step_of(p) > oldest}
    for path in health.keys() - staying:
        remove_folder(path)


def by_step(folder: Path) -> list[Path]:
    """Return the folders that are named like checkpoints, by their step; copies are not."""
    found = (p for p in folder.glob("step-*") if step_of(p) >= 0 and p.is_dir())
    return sorted(found, key=lambda p: (step_of(p), p.name))


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name; -1 if it is named otherwise."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isascii() and number.isdigit() else -1


def is_healthy(path: Path) -> bool | None:
    """Return what a checkpoint says about the run's health; None if it cannot be read."""
    try:
        return read_manifest(path).healthy
    except StateError:
        return None
