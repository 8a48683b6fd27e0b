"""The writer of measured signals: append-only, crash-proof, and never a reason to stop."""

import itertools
import json
import os
import re
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from trimtab.checkpoint import write_atomic
from trimtab.errors import ConfigError, StateError, TrimtabError
from trimtab.signals._events import EventsFile, plain
from trimtab.signals._rows import (
    BUFFER_BYTES,
    Array,
    Rows,
    SiteCodes,
    Stream,
    column_kinds,
)
from trimtab.signals._segments import (
    FOLDER,
    Label,
    Segment,
    arrow,
    clean,
    compact,
    list_segments,
    segment_path,
)
from trimtab.signals._thinning import thin

_EVENTS_SHARE: Final = 8
"""Events may fill one eighth of the disk space; they are meant to be rare."""

_SEGMENTS_IN_LIMIT: Final = 32
"""A segment takes at most this part of the space, so that there are old ones to thin."""


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


class RunWriter:
    """Append-only store of measured signals in `folder/signals`; `load_run` reads it.

    While the run goes on, each table is an Arrow stream; a stream that is full, and every one at
    the end, becomes zstd Parquet. Killed at any moment, the process loses at most what came after
    the last flush. A writer that is dropped, or whose process ends normally, loses nothing. In a
    forked process every call does nothing.

    A second writer on the same folder adds to it. If it begins at an earlier step than the
    first one ended, readers see its rows in place of the older ones; nothing is deleted. The
    same happens when a table goes back to an earlier step.

    If the disk refuses (full, not writable, folder gone), one warning says so, `failed` is set,
    and from then on every call does nothing. Training goes on.

    A row, which is 11 signals of one site in one step, or 44 bytes of numbers, takes 56 bytes on
    the disk while it is fresh and 34 as Parquet (`benchmarks/results/store-*.json`).

    Args:
        folder: Of the run; made if missing.
        info: What `Run.info` will hold; has to fit into JSON.
        flush_s: Seconds between flushes, seen at the next `append`.
        segment_bytes: Size at which a stream is turned into Parquet, in the background.
        max_bytes: Of all files together, beyond which old segments are thinned: of their steps
            those stay which 2, 4, 8... divide, ever fewer with age. None keeps everything.
        warn: Is given the one warning.

    Raises:
        ConfigError: pyarrow is missing, or a number is not positive.
    """

    def __init__(
        self,
        folder: Path,
        *,
        info: Mapping[str, Any],
        flush_s: float = 5.0,
        segment_bytes: int = 32 * 2**20,
        max_bytes: int | None = 2**30,
        warn: Callable[[str], None] = _warn,
    ) -> None:
        arrow()
        for name, value in (("segment_bytes", segment_bytes), ("max_bytes", max_bytes)):
            if value is not None and value <= 0:
                raise ConfigError(
                    f"{name} must be positive, got {value}. Leave it out for its default."
                )
        if not flush_s >= 0:
            raise ConfigError(
                f"flush_s must be 0 or more seconds, got {flush_s}. Leave it out for its default."
            )
        self._log: Final = _Log(
            Path(folder).absolute() / FOLDER, info, flush_s, segment_bytes, max_bytes, warn
        )
        # Also runs when the process ends. It must not hold the writer itself.
        self._finalizer: Final = weakref.finalize(self, self._log.call, self._log.close)

    @property
    def failed(self) -> bool:
        """Whether the disk has refused, so that nothing is recorded any more."""
        return self._log.failed

    def append(
        self,
        table: str,
        step: int,
        columns: Mapping[str, Array],
        sites: Sequence[str] | None = None,
    ) -> None:
        """Add one record: what was measured of every site in one step.

        The values are copied, which takes microseconds; the disk sees them at the next flush.
        Columns and sites may differ between the records of a table: what one lacks is null.

        Args:
            table: `"steps"`, `"parameters"`, `"modules"`, `"histograms"` or another word.
            step: Optimizer update.
            columns: Signal to values of shape (num_sites,) or, for bins, (num_sites, num_bins).
                float64 is kept, what is not a float becomes float64, all else float32.
            sites: One name for each value; None where there is one value and no site.

        Raises:
            ConfigError: A column is not as long as `sites`, or `table` is not a word.
            StateError: The writer is closed.
        """
        self._log.call(self._log.append, table, step, columns, sites)

    def event(self, step: int, kind: str, **fields: Any) -> None:
        """Note something rare: a skipped step, a resumed run; fields are what JSON can hold.

        Raises:
            StateError: The writer is closed.
        """
        self._log.call(self._log.event, step, kind, fields)

    def flush(self) -> None:
        """Hand every row to the system, where it survives the process."""
        self._log.call(self._log.flush)

    def close(self) -> None:
        """Flush, and turn all streams into Parquet. A second call does nothing."""
        self._log.call(self._log.close)
        if self._log.closed:
            self._finalizer.detach()


class _Log:
    """What a writer does; apart from it, so that it can outlive it for a moment."""

    def __init__(
        self,
        folder: Path,
        info: Mapping[str, Any],
        flush_s: float,
        segment_bytes: int,
        max_bytes: int | None,
        warn: Callable[[str], None],
    ) -> None:
        self.failed = False
        self.closed = False
        self._closing = False
        self._folder: Final = folder
        self._flush_s: Final = flush_s
        self._max_bytes: Final = max_bytes
        most = segment_bytes if max_bytes is None else max_bytes // _SEGMENTS_IN_LIMIT
        self._segment_bytes: Final = max(1, min(segment_bytes, most))
        self._warn: Final = warn
        self._news: str | None = None
        self._pid: Final = os.getpid()
        self._lock: Final = threading.RLock()
        self._busy = False
        self._tables: dict[str, _Table] = {}
        self._events: EventsFile | None = None
        self._tidying: threading.Thread | None = None
        self._tidying_error: Exception | None = None
        self._numbers = itertools.count(1)
        self._session = 0
        self._start: int | None = None
        self._due = time.monotonic() + flush_s
        self.call(self._open, info)

    def call(self, do: Callable[..., None], *args: Any) -> None:
        """Do one thing at a time, and turn a disk's refusal into one warning."""
        if os.getpid() != self._pid:
            return  # a forked copy: the rows are the parent's
        with self._lock:
            if self._busy:
                return  # a signal handler, in the middle of another call
            self._busy = True
            try:
                if self._tidying_error is not None:
                    self._fail(self._tidying_error)
                if not self.failed:
                    do(*args)
            except (OSError, arrow().ArrowException) as error:
                self._fail(error)
            finally:
                self._busy = False
        if self._news is not None:
            news, self._news = self._news, None
            self._warn(news)

    def _open(self, info: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        clean(self._folder)
        text = json.dumps(dict(info), indent=2, default=plain)
        write_atomic(self._folder / "info.json", (text + "\n").encode())
        segments = list_segments(self._folder)
        self._session = segments[-1].number if segments else 0
        self._numbers = itertools.count(self._session + 1)
        share = None if self._max_bytes is None else self._max_bytes // _EVENTS_SHARE
        self._events = EventsFile(self._folder / "events.jsonl", max_bytes=share)

    def append(
        self, name: str, step: int, columns: Mapping[str, Array], sites: Sequence[str] | None
    ) -> None:
        self._check_open()
        table = self._tables.get(name)
        if table is None:
            if name == "all" or not re.fullmatch(r"\w+", name):
                raise ConfigError(
                    f"A table's name must be a word, and not 'all', which means every table; "
                    f"got {name!r}."
                )
            table = self._tables[name] = _Table(name)
        if self._start is None:
            self._start = step
        elif step < table.last_step:
            self._begin_session(step)
        table.last_step = step
        codes = None if sites is None else table.sites.of(sites)
        num = 1 if codes is None else len(codes)
        rows = table.rows
        if rows is None or not columns.keys() <= rows.values.keys():
            rows = self._widen(table, columns, num, has_sites=codes is not None)
        elif (rows.codes is None) is not (codes is None):
            raise ConfigError(
                f"Table {name!r} has records with sites and without. Use a table for each."
            )
        if rows.count + num > rows.room:
            self._write(table)
            if num > rows.room:
                rows = self._widen(table, columns, num, has_sites=codes is not None)
        rows.put(step, codes, num, columns)
        if time.monotonic() >= self._due:
            self.flush()

    def event(self, step: int, kind: str, fields: Mapping[str, Any]) -> None:
        self._check_open()
        assert self._events is not None
        self._events.add({"step": step, "kind": kind, **fields, "session": self._session})
        if time.monotonic() >= self._due or self._events.crowded:
            self.flush()

    def flush(self) -> None:
        for table in self._tables.values():
            self._write(table)
        if self._events is not None:
            self._events.flush()
        self._due = time.monotonic() + self._flush_s

    def close(self) -> None:
        if self.closed:
            return
        self._closing = True  # a thread cannot be started when the process ends
        self.flush()
        if self._tidying is not None:
            self._tidying.join()
        if self._tidying_error is not None:
            raise self._tidying_error
        self._tidy(list_segments(self._folder))
        self._tables.clear()
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise StateError("This writer is closed. Make a new RunWriter on the same folder.")

    def _begin_session(self, step: int) -> None:
        """Let what follows supersede the rows from `step` on."""
        self.flush()
        self._session = next(self._numbers) - 1
        self._numbers = itertools.count(self._session + 1)
        self._start = step
        for table in self._tables.values():
            table.stream = None
            table.last_step = min(table.last_step, step)

    def _widen(
        self, table: "_Table", columns: Mapping[str, Array], num: int, *, has_sites: bool
    ) -> Rows:
        """Make room for more columns, or for a record that is larger than any before."""
        known = {}
        if table.rows is not None:
            self._write(table)
            known = {n: (v.dtype, v.shape[1:]) for n, v in table.rows.values.items()}
        kinds = column_kinds(columns, known)
        if kinds.keys() != known.keys():
            table.stream = None  # a stream has one schema
        size = min(BUFFER_BYTES, self._segment_bytes)
        table.rows = Rows(kinds, has_sites=has_sites, num_bytes=size, at_least=num)
        return table.rows

    def _write(self, table: "_Table") -> None:
        """Write the rows of one table, and close its segment when it is full."""
        rows = table.rows
        if rows is None or not rows.count:
            return
        stream, table.stream = table.stream, None  # after an interrupted write, a new one
        if stream is None:
            assert self._start is not None
            schema = rows.schema(Label(session=self._session, start=self._start))
            path = segment_path(self._folder, table.name, next(self._numbers))
            stream = Stream(path, schema)
        stream.write(rows.batch(stream.schema, table.sites.names()))
        rows.clear()
        if stream.num_bytes < self._segment_bytes:
            table.stream = stream
        else:
            self._tidy_in_background()

    def _tidy_in_background(self) -> None:
        if self._closing:
            return  # close() does it
        if self._tidying is not None:
            self._tidying.join()
        growing = {t.stream.path for t in self._tables.values() if t.stream is not None}
        closed = [s for s in list_segments(self._folder) if s.path not in growing]
        thread = threading.Thread(target=self._try_to_tidy, args=(closed,), name="trimtab-signals")
        with suppress(RuntimeError):  # no more threads: close() does it
            thread.start()
            self._tidying = thread

    def _try_to_tidy(self, segments: Sequence[Segment]) -> None:
        try:
            self._tidy(segments)
        except (OSError, arrow().ArrowException, TrimtabError) as error:
            self._tidying_error = error  # the next call deals with it

    def _tidy(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if not segment.compacted:
                compact(segment)
        if self._max_bytes is not None:
            # Until the next time, every stream may grow to a full segment, and one be compacted.
            reserve = (len(self._tables) + 1) * self._segment_bytes
            limit = max(self._max_bytes - reserve, self._max_bytes // 2)
            thin(self._folder, limit, merge_bytes=self._segment_bytes // 2)

    def _fail(self, error: Exception) -> None:
        if self.failed:
            return
        self.failed = True
        self._tables.clear()
        self._events = None
        reason = getattr(error, "strerror", None) or str(error)
        self._news = (
            f"Signals are not recorded any more: {self._folder} cannot be written ({reason}). "
            "Training goes on, and what was written before stays readable. Free space there, or "
            "choose another folder, before the next run."
        )


class _Table:
    """One table of a writer."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.sites: Final = SiteCodes()
        self.last_step = -(2**63)
        self.rows: Rows | None = None
        self.stream: Stream | None = None
