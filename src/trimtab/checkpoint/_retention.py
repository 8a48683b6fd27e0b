"""Which checkpoints stay when a new one has been written: the healthy ones come first."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab.checkpoint._atomic import remove_folder
from trimtab.checkpoint._manifest import read_manifest
from trimtab.errors import StateError


def drop_outdated(folder: Path, written: Path, keep: int) -> None:
    """Remove what the checkpoint just written makes outdated.

    The newest `keep` healthy ones stay. Of those taken inside an incident the newest stays, and
    only while no healthy one is newer. A healthy one also removes those of later steps: the run has
    gone back before them, and going on from one of them would bring back what it left behind.

    Two processes that do this at once would each remove what the other one keeps, and leave
    nothing: one of them leaves it to its next save.

    Args:
        folder: Of checkpoints.
        written: The new one; always stays. If another process has removed it, nothing is.
        keep: At least 1.
    """
    with _alone_in(folder) as alone:
        if alone and written.exists():
            _drop(folder, written, keep)


@contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Lock a folder against other processes; True too where the system has no such locks."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        yield True
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        except OSError:  # some network shares
            alone = True
        yield alone
        if alone:  # closing is not enough: a process forked meanwhile has the handle too
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def _drop(folder: Path, written: Path, keep: int) -> None:
    now = step_of(written)
    health = {path: is_healthy(path) for path in by_step(folder)}
    good = [p for p, healthy in health.items() if healthy]
    bad = [p for p, healthy in health.items() if healthy is False]
    if health.get(written):  # it is not there if another process is just replacing it
        good, bad = [p for p in good if step_of(p) <= now], []
    newest = step_of(good[-1]) if good else -1
    staying = {written, *good[-keep:], *(p for p in bad[-1:] if step_of(p) > newest)}
    # One that cannot be read may be of a later trimtab: it stays until it is the oldest.
    oldest = step_of(good[-keep:][0]) if len(good) >= keep else -1
    staying |= {p for p, healthy in health.items() if healthy is None and step_of(p) > oldest}
    for path in health.keys() - staying:
        remove_folder(path)


def by_step(folder: Path) -> list[Path]:
    """Return the folders that are named like checkpoints, by their step; copies are not.

    One look at the folder: asking of each name afterwards whether it is a folder would find none
    where the only one has just made room for a newer one.
    """
    try:
        with os.scandir(folder) as entries:
            found = [folder / entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((p for p in found if step_of(p) >= 0), key=lambda p: (step_of(p), p.name))


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name; -1 if it is named otherwise."""
    begin, number = path.name[:5], path.name[5:]
    return int(number) if begin == "step-" and number.isascii() and number.isdigit() else -1


def is_healthy(path: Path) -> bool | None:
    """Return what a checkpoint says about the run's health; None if it cannot be read."""
    try:
        return read_manifest(path).healthy
    except StateError:
        return None
