"""Files of measured rows: their names, how they are read and compacted."""

import json
import os
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from trimtab.checkpoint import write_atomic
from trimtab.errors import ConfigError
from trimtab.signals._optional import require

FOLDER: Final = "signals"
"""Where a run folder keeps them."""

_NAME: Final = re.compile(r"(?P<table>\w+)-(?P<number>\d{5,})\.(?P<kind>arrows|parquet)")
_KEY: Final = b"trimtab"
_SCHEMA_BYTES: Final = 2**20  # more than any schema takes
_PURPOSE: Final = "The store of measured signals"


def arrow(submodule: str = "") -> Any:
    """Return pyarrow, or one of its modules.

    Raises:
        ConfigError: It is not installed.
    """
    return require(f"pyarrow.{submodule}" if submodule else "pyarrow", _PURPOSE)


class Segment(NamedTuple):
    """One file of rows: a growing Arrow stream or, when it is closed, Parquet."""

    number: int
    """Counts over all tables and sessions, in the order in which they were begun."""
    table: str
    path: Path

    @property
    def compacted(self) -> bool:
        """Whether it is Parquet."""
        return self.path.suffix == ".parquet"


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a segment says of itself, in its schema."""

    session: int
    """Number of the last segment before the session; grows from one session to the next."""
    start: int
    """First step of the session: rows of older sessions from this step on are superseded."""
    stride: int = 1
    """Steps that it does not divide have been thinned out."""
    last: int = 0
    """Last step in it; known when it is compacted."""
    since: int | None = None
    """First number of the table's segments that were merged into it."""
    format: int = 1

    def metadata(self) -> dict[bytes, bytes]:
        """Return it as metadata of an Arrow schema."""
        return {_KEY: json.dumps(vars(self)).encode()}


def label_of(schema: Any) -> Label | None:
    """Return the label in an Arrow schema; None if there is none.

    Raises:
        ConfigError: It is of a later version.
    """
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        return None
    fields = json.loads(text)
    if fields["format"] > Label.format:
        raise ConfigError(
            f"The signals were written in format {fields['format']}, and this version reads "
            f"{Label.format}. Install a newer trimtab."
        )
    return Label(**fields)


def segment_path(folder: Path, table: str, number: int, kind: str = "arrows") -> Path:
    """Return where a segment stands."""
    return folder / f"{table}-{number:05d}.{kind}"


def list_segments(folder: Path) -> list[Segment]:
    """Return the segments in the order of their rows; Parquet is preferred to its stream."""
    found: dict[int, Segment] = {}
    # Twice: a single pass may miss a segment of which one file comes and the other goes meanwhile.
    for path in [*sorted(folder.iterdir()), *sorted(folder.iterdir())]:  # .arrows before .parquet
        if match := _NAME.fullmatch(path.name):
            number = int(match["number"])
            found[number] = Segment(number, match["table"], path)
    return [found[number] for number in sorted(found)]


class Part(NamedTuple):
    """What one segment holds, read at one moment."""

    segment: Segment
    label: Label
    rows: Any


def read_part(segment: Segment, columns: list[str] | None = None) -> Part | None:
    """Read a segment's label and whole rows.

    A stream may end anywhere: it grows while it is read, and its writer may have been killed.

    Args:
        segment: May have become Parquet since it was listed.
        columns: To read, of those that there are; no column at all if it is empty, which is cheap.

    Returns:
        Label and rows; None if there is nothing whole in it, or it is none of ours.

    Raises:
        FileNotFoundError: It has been thinned away, or merged with another, since it was listed.
    """
    read = _read_parquet if segment.compacted else _read_stream
    try:
        rows, schema = read(segment.path, columns)
    except FileNotFoundError:
        if segment.compacted:
            raise
        return read_part(segment._replace(path=segment.path.with_suffix(".parquet")), columns)
    label = None if schema is None else label_of(schema)
    return None if label is None else Part(segment, label, rows)


def _read_parquet(path: Path, columns: list[str] | None) -> tuple[Any, Any]:
    pa = arrow()
    with path.open("rb") as raw:
        try:
            with arrow("parquet").ParquetFile(raw) as file:
                schema = file.schema_arrow
                if columns == []:
                    return None, schema
                wanted = None if columns is None else [c for c in columns if c in schema.names]
                return file.read(wanted, use_threads=False), schema
        except (pa.ArrowException, OSError) as error:
            warnings.warn(f"{path} is damaged and left out: {error}", stacklevel=2)
            return None, None


def _read_stream(path: Path, columns: list[str] | None) -> tuple[Any, Any]:
    pa = arrow()
    schema, batches = None, []
    with path.open("rb") as file:  # not mapped: it may be cut meanwhile
        data = file.read(_SCHEMA_BYTES if columns == [] else -1)
    try:
        reader = pa.ipc.open_stream(data)
        schema = reader.schema
        for batch in [] if columns == [] else reader:
            batch.validate()
            batches.append(batch)
    except (pa.ArrowException, OSError, EOFError):
        pass  # the end of what is whole
    if not batches:
        return None, schema
    rows = pa.Table.from_batches(batches).unify_dictionaries()
    if columns is not None:
        rows = rows.select([name for name in columns if name in rows.column_names])
    return rows, schema


def current(parts: Iterable[Part]) -> list[Part]:
    """Leave out the parts that have been merged into another one."""
    parts = list(parts)
    spans = [
        (p.segment.table, p.label.since, p.segment.number)
        for p in parts
        if p.label.since is not None
    ]
    return [
        part
        for part in parts
        if not any(
            table == part.segment.table and since <= part.segment.number < number
            for table, since, number in spans
        )
    ]


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # renamed meanwhile
                total += entry.stat().st_size
    return total


def clean(folder: Path) -> None:
    """Remove what a killed writer left: unfinished files and streams that are Parquet already."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    for path in folder.glob("*.parquet"):
        path.with_suffix(".arrows").unlink(missing_ok=True)


def compact(segment: Segment) -> None:
    """Turn a closed stream into Parquet, about half as large, which every tool reads.

    The stream goes when the Parquet file is whole, so a crash leaves one of them.

    Raises:
        OSError: The disk is full or not writable; the stream is as it was.
    """
    rows, schema = _read_stream(segment.path, None)
    if rows is not None:
        label = label_of(schema)
        if label is None:
            return  # none of ours
        label = replace(label, last=int(rows["step"].to_numpy().max()))
        write_parquet(segment.path.with_suffix(".parquet"), rows, label)
    with suppress(OSError):  # Windows keeps a file that is being read; clean() comes later
        segment.path.unlink()


def write_parquet(path: Path, table: Any, label: Label) -> None:
    """Write rows so that a crash leaves the old file or the new one.

    Raises:
        OSError: The disk is full or not writable; the old file is as it was.
    """
    pa = arrow()
    sink = pa.BufferOutputStream()
    encodings = {
        field.name: "BYTE_STREAM_SPLIT"
        for field in table.schema
        if pa.types.is_floating(field.type)
    }
    arrow("parquet").write_table(
        table.replace_schema_metadata(label.metadata()),
        sink,
        compression="zstd",
        use_dictionary=["site"],
        column_encoding=encodings | {"step": "DELTA_BINARY_PACKED"},
    )
    write_atomic(path, sink.getvalue())
