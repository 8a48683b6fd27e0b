"""Rare things that happened in a run, as lines of JSON."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trimtab.signals._rows import append_bytes

_MOST_WAITING: Final = 1000


class EventsFile:
    """Collects events and appends them as whole lines.

    Args:
        path: Made if missing. A line that a crash cut off is ended, so that it spoils no other.
        max_bytes: Size of the file beyond which events are dropped; the last one then has the
            kind `events_full`. None sets no limit.

    Raises:
        OSError: The disk is full or not writable.
    """

    def __init__(self, path: Path, *, max_bytes: int | None) -> None:
        self._path: Final = path
        self._max_bytes: Final = max_bytes
        self._waiting: list[str] = []
        if not path.exists():
            append_bytes(path, b"", new=True)
        with path.open("rb") as file:
            self._num_bytes = file.seek(0, os.SEEK_END)
            if self._num_bytes:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    append_bytes(path, b"\n", new=False)

    @property
    def crowded(self) -> bool:
        """Whether so many wait that they should be written."""
        return len(self._waiting) >= _MOST_WAITING

    def add(self, event: Mapping[str, Any]) -> None:
        """Remember one event until the next flush."""
        text = json.dumps(event, default=plain) + "\n"
        size = self._num_bytes + len(text)
        if self._max_bytes is not None and size > self._max_bytes:
            if self._num_bytes > self._max_bytes:
                return
            text = json.dumps({**event, "kind": "events_full"}, default=plain) + "\n"
        self._num_bytes = size
        self._waiting.append(text)

    def flush(self) -> None:
        """Append what waits.

        Raises:
            OSError: The disk is full or not writable; the file is as it was.
        """
        if self._waiting:
            append_bytes(self._path, "".join(self._waiting).encode(), new=False)
            self._waiting.clear()


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of an events file; none if it does not exist."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [event for event in map(_parse, lines) if event is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # cut off by a crash
        return None
    return event if isinstance(event, dict) and "step" in event else None


def plain(value: Any) -> Any:
    """Return NumPy's numbers as Python's, and anything else as text, for JSON."""
    return value.item() if hasattr(value, "item") else str(value)
