"""Files that are either the old one or the whole new one, whatever happens in between."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab.checkpoint._leftovers import hidden_name, under_construction


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash leaves the old content or the new, never a part.

    Args:
        path: Its folder exists.
        data: The whole content.

    Raises:
        OSError: The disk is full or not writable; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_synced(path: Path, *chunks: bytes | memoryview) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def write_verified(path: Path, *chunks: bytes | memoryview) -> tuple[int, str]:
    """Write a new file, wait until it is on the disk, and read it back.

    What is read may come from the system's cache instead of the disk. That finds a short write,
    a faulty file system driver or network share, and memory that changed; not a disk that forgets
    later, for which there is the checksum when it is read.

    Returns:
        How many bytes it has, and their SHA-256 in hexadecimal.

    Raises:
        OSError: The disk is full or not writable, or gave back something else.
    """
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    write_synced(path, *chunks)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest.hexdigest():
        raise OSError(
            errno.EIO,
            "what was read back differs from what was written; the disk or the memory is faulty",
            str(path),
        )
    return sum(len(chunk) for chunk in chunks), found


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk; a system that cannot is left alone."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `path` when the block ends without an error.

    An existing `path` is replaced only then. A process that is killed leaves hidden folders, which
    `clear_leftovers` removes and `put_back` undoes.

    Args:
        path: Its parent exists.

    Raises:
        OSError: The disk is full or not writable; `path` is as it was.
    """
    temporary, old = hidden_name(path, "tmp"), hidden_name(path, "old")
    with under_construction(temporary, old):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            yield temporary
            sync_folder(temporary)
            _replace(path, temporary, old)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is there whole or not at all; what cannot be removed stays."""
    hidden = hidden_name(path, "tmp")
    with suppress(OSError):
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _replace(path: Path, new: Path, old: Path) -> None:
    """Rename `new` to `path`; no system call swaps two folders on every system.

    Another process may do the same at the same moment. Then the last one wins, and both are told
    nothing, for each has written a whole folder.

    Raises:
        OSError: It cannot be done; `path` is as it was.
    """
    for attempts_left in (2, 1, 0):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):  # taken away in this moment
                path.rename(old)
        try:
            new.rename(path)
            break
        except OSError as error:
            if old.exists() and not path.exists():
                old.rename(path)
            if not attempts_left or error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
    shutil.rmtree(old, ignore_errors=True)
