"""Errors of a disk, told with the place, what it means for the checkpoints, and the way out."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_NOT_WRITABLE: Final = "Make it writable or choose another folder for checkpoints"
_GONE: Final = (
    "The folder was removed, renamed or unmounted while a checkpoint was being written; the next "
    "save makes it anew"
)
_FULL: Final = (
    "A new checkpoint needs room beside the older ones, which go only when it is whole{size}. Free "
    "some space, lower keep, or choose another folder; the older ones are untouched"
)
_LIMITED: Final = (
    "A checkpoint's files are larger than this process or file system allows{size}. Raise the "
    "limit (ulimit -f) or choose another folder; the older checkpoints are untouched"
)
_REMEDIES: Final[Mapping[int, str]] = {
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.EROFS: _NOT_WRITABLE,
    errno.ENOTDIR: _NOT_WRITABLE,
    errno.EEXIST: _NOT_WRITABLE,
    errno.ENOENT: _GONE,
    getattr(errno, "ESTALE", errno.ENOENT): _GONE,
    errno.ENOSPC: _FULL,
    getattr(errno, "EDQUOT", errno.ENOSPC): _FULL,
    errno.EFBIG: _LIMITED,
}


@contextmanager
def explained(folder: Path, num_bytes: int = 0) -> Iterator[None]:
    """Say of an `OSError` raised inside where it was and what can be done; its number stays.

    Args:
        folder: Of checkpoints, for errors that name no file.
        num_bytes: What was to be written, if it is known.

    Raises:
        OSError: One was raised inside.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        size = f" ({num_bytes:,} bytes)" if num_bytes else ""
        reason = f"{error.strerror}. {remedy.format(size=size)}"
        raise OSError(error.errno, reason, str(error.filename or folder)) from error
