"""Rows of one table in memory, and the stream of Arrow batches that they become."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from trimtab.errors import ConfigError
from trimtab.signals._segments import Label, arrow

Array = np.ndarray[Any, Any]

BUFFER_BYTES: Final = 2**20
"""Rows that a table keeps before it writes them, whatever the time."""


class Rows:
    """Columns of equal length that fill up; nothing is allocated while they do.

    Args:
        columns: Signal to the dtype and shape of one row's value.
        has_sites: Whether a row belongs to a site.
        num_bytes: What they may take.
        at_least: Rows that have to fit, whatever they take.
    """

    def __init__(
        self,
        columns: Mapping[str, tuple[Any, tuple[int, ...]]],
        *,
        has_sites: bool,
        num_bytes: int,
        at_least: int,
    ) -> None:
        row_bytes = 8 + 4 * has_sites
        row_bytes += sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in columns.values())
        self.room: Final = max(at_least, num_bytes // row_bytes)
        self.count = 0
        self.steps: Final = np.empty(self.room, np.int64)
        self.codes: Final = np.empty(self.room, np.int32) if has_sites else None
        self.values: Final = {n: np.empty((self.room, *s), d) for n, (d, s) in columns.items()}
        self.missing: Final[dict[str, Array]] = {}

    def put(self, step: int, codes: Array | None, num: int, columns: Mapping[str, Array]) -> None:
        """Copy one record in; columns that it lacks are null.

        Raises:
            ConfigError: A column does not have `num` values.
        """
        begin, end = self.count, self.count + num
        self.steps[begin:end] = step
        if self.codes is not None:
            self.codes[begin:end] = codes
        for name, stored in self.values.items():
            given = columns.get(name)
            if given is None:
                self.missing.setdefault(name, np.zeros(self.room, bool))[begin:end] = True
                continue
            if len(given) != num:
                raise ConfigError(
                    f"Signal {name!r} has {len(given)} values, but the record has {num} sites. "
                    "Pass one value for each site."
                )
            if stored.ndim > 1 and given.shape[1:] != stored.shape[1:]:
                raise ConfigError(
                    f"Signal {name!r} has {given.shape[1:]} bins a site, and had "
                    f"{stored.shape[1:]} before. Use a table for each number of bins."
                )
            stored[begin:end] = given
        self.count = end  # last: an interrupted call leaves no half record

    def clear(self) -> None:
        """Forget all rows; the room stays."""
        self.count = 0
        self.missing.clear()

    def batch(self, schema: Any, sites: Any) -> Any:
        """Return the rows as an Arrow record batch that shares their memory."""
        pa = arrow()
        arrays = [pa.array(self.steps[: self.count])]
        if self.codes is not None:
            arrays.append(pa.DictionaryArray.from_arrays(self.codes[: self.count], sites))
        arrays += [self._column(name) for name in self.values]
        return pa.record_batch(arrays, schema=schema)

    def _column(self, name: str) -> Any:
        pa = arrow()
        values = self.values[name][: self.count]
        mask = self.missing[name][: self.count] if name in self.missing else None
        if values.ndim == 1:
            return pa.array(values, mask=mask)  # NaN stays NaN; only what is missing is null
        mask = None if mask is None else pa.array(mask)
        return pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1)), values.shape[1], mask=mask
        )

    def schema(self, label: Label) -> Any:
        """Return the Arrow schema of these rows."""
        pa = arrow()
        fields = [pa.field("step", pa.int64(), nullable=False)]
        if self.codes is not None:
            fields.append(pa.field("site", pa.dictionary(pa.int32(), pa.string())))
        for name, stored in self.values.items():
            kind = pa.from_numpy_dtype(stored.dtype)
            fields.append(
                pa.field(name, kind if stored.ndim == 1 else pa.list_(kind, stored.shape[1]))
            )
        return pa.schema(fields, metadata=label.metadata())


class Stream:
    """A segment that grows: every write appends whole batches, and opens the file anew.

    So a deleted folder is noticed, no handle goes over to a forked process, and on a full disk
    what could not be written whole is cut off again.

    Args:
        path: Must not exist.
        schema: Of all batches.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self.path: Final = path
        self.schema: Final = schema
        self.num_bytes = 0
        self._sink: Final = _Sink()
        self._writer: Final = arrow().ipc.new_stream(arrow().PythonFile(self._sink, "w"), schema)

    def write(self, batch: Any) -> None:
        """Append one batch.

        Raises:
            OSError: The disk refuses; the stream must not be used again, its file is whole.
        """
        self._writer.write_batch(batch)
        data = self._sink.take()
        append_bytes(self.path, data, new=self.num_bytes == 0)
        self.num_bytes += len(data)


class _Sink:
    """A file for pyarrow that hands over what was written to it."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def append_bytes(path: Path, data: bytes, *, new: bool) -> None:
    """Append to a file all of `data` or, if the disk refuses, nothing.

    Args:
        path: The file.
        data: What to append.
        new: Whether the file is to be made; if not, it has to exist.

    Raises:
        OSError: The disk is full or not writable; the file is as it was.
    """
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o666)
    try:
        size = os.fstat(handle).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(handle, view) :]
        except BaseException:  # also Ctrl-C: what follows must not stand behind half a batch
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def column_kinds(
    columns: Mapping[str, Array], known: Mapping[str, tuple[Any, tuple[int, ...]]]
) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return dtype and row shape of the known columns and of those that are new."""
    kinds = dict(known)
    for name, values in columns.items():
        dtype = np.dtype(np.float32 if values.dtype.itemsize < 4 else np.float64)
        if values.dtype == np.float32:
            dtype = values.dtype
        kinds.setdefault(name, (dtype, values.shape[1:]))
    return kinds


class SiteCodes:
    """Numbers the sites of a table, in the order in which they come."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._last: Sequence[str] | None = None
        self._last_codes: Array | None = None
        self._names: Any = None

    def of(self, sites: Sequence[str]) -> Array:
        """Return the code of each site; the same sites again cost next to nothing."""
        last = self._last
        if last is None or (sites is not last and list(sites) != list(last)):
            codes = [self._codes.setdefault(site, len(self._codes)) for site in sites]
            self._last, self._last_codes = tuple(sites), np.array(codes, np.int32)
            if self._names is not None and len(self._names) < len(self._codes):
                self._names = None
        assert self._last_codes is not None
        return self._last_codes

    def names(self) -> Any:
        """Return all sites as an Arrow array; the same one until a site is new."""
        if self._names is None:
            self._names = arrow().array(list(self._codes), arrow().string())
        return self._names
