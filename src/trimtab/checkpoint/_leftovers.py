"""What a killed process left among checkpoints: half-written ones, and one half replaced."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_HIDDEN: Final = re.compile(r"\.(?P<name>step-\d+)\.(?:(?P<pid>\d+)\.)?(?P<kind>tmp|old)")
"""`.step-00000010.4711.tmp` is being written by process 4711; `.old` had to make room for it."""

_busy: set[Path] = set()
_lock = threading.Lock()


def hidden_name(path: Path, kind: str) -> Path:
    """Return where this process builds (`"tmp"`) or pushes aside (`"old"`) the folder `path`."""
    return path.absolute().with_name(f".{path.name}.{os.getpid()}.{kind}")


@contextmanager
def under_construction(*paths: Path) -> Iterator[None]:
    """Keep other threads of this process from taking these folders for leftovers."""
    with _lock:
        _busy.update(paths)
    try:
        yield
    finally:
        with _lock:
            _busy.difference_update(paths)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes have begun, after putting back what they pushed aside.

    What a living process works on stays. In a container a new process often has the number of the
    one that was killed, so its own number counts as living only for what it works on now.

    Args:
        folder: Of checkpoints; on a disk that several machines share, of one run only.
    """
    put_back(folder)
    for path, _ in _abandoned(folder, "tmp", "old"):
        shutil.rmtree(path, ignore_errors=True)


def others_at_work(folder: Path, kind: str) -> list[tuple[Path, int]]:
    """Return what other living processes build (`"tmp"`) or push aside (`"old"`), and which."""
    found = []
    for path in sorted(folder.absolute().glob(".step-*")):
        match = _HIDDEN.fullmatch(path.name)
        if not match or match["kind"] != kind or match["pid"] in {None, str(os.getpid())}:
            continue
        if _is_busy(path, match["pid"]):
            found.append((path, int(match["pid"])))
    return found


def put_back(folder: Path) -> None:
    """Give a checkpoint its name again that a killed process pushed aside and did not replace."""
    for path, name in _abandoned(folder, "old"):
        if not (folder / name).exists():
            with suppress(OSError):  # a folder that may only be read
                path.rename(folder / name)


def _abandoned(folder: Path, *kinds: str) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.absolute().glob(".step-*")):
        match = _HIDDEN.fullmatch(path.name)
        if match and match["kind"] in kinds and not _is_busy(path, match["pid"]):
            yield path, match["name"]


def _is_busy(path: Path, pid: str | None) -> bool:
    if pid is None:  # written by trimtab 0.1, which named no process
        return False
    if int(pid) == os.getpid():
        with _lock:
            return path in _busy
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or Windows, where nobody can tell
        return True
    return True
