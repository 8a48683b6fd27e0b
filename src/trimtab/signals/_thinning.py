"""Thinning of old segments, so that a run of any length fits into its space."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trimtab.signals._segments import (
    Label,
    Part,
    Segment,
    arrow,
    current,
    folder_bytes,
    list_segments,
    read_part,
    write_parquet,
)


def thin(folder: Path, limit: int, *, merge_bytes: int) -> None:
    """Halve the resolution of old segments, again and again, until the folder is small enough.

    Of the steps in a segment those stay which 2, 4, 8... divide, or one. Next comes always the
    segment that is finest for its age, so the resolution falls with age, and the number of rows
    grows with the logarithm of the steps. The newest segment of each table stays as it is. The
    table `steps`, a row a step, is touched last. What has become small is merged with its
    neighbour, so that the number of files is bounded too.

    Args:
        folder: Holds the segments.
        limit: In bytes, of all files in the folder; if they take more, they are brought to an
            eighth below.
        merge_bytes: Neighbours are merged if they are no larger together.

    Raises:
        OSError: The disk is full or not writable; every segment is whole.
    """
    if folder_bytes(folder) <= limit:
        return
    old = list(_thinnable(list_segments(folder)))
    enough = limit - limit // 8  # not a little every time: each begins with reading all labels
    while old and folder_bytes(folder) > enough:
        old.sort(key=lambda item: (item.segment.table != "steps", item.age / item.label.stride))
        item = old.pop()
        changed = item._replace(label=_halve(item.segment, item.label))
        for other in _neighbours(item, old):
            if _num_bytes(changed) + _num_bytes(other) <= merge_bytes:
                old.remove(other)
                changed = _merge(*sorted([changed, other], key=_number))
        if changed != item:
            old.append(changed)


class _Old(NamedTuple):
    segment: Segment
    label: Label
    age: int  # steps


def _number(old: _Old) -> int:
    return old.segment.number


def _num_bytes(old: _Old) -> int:
    return old.segment.path.stat().st_size


def _thinnable(segments: Iterable[Segment]) -> Iterable[_Old]:
    parts = [part for s in segments if s.compacted and (part := read_part(s, [])) is not None]
    tables: dict[str, list[Part]] = {}
    for part in current(parts):
        tables.setdefault(part.segment.table, []).append(part)
    for part in parts:
        if part not in tables[part.segment.table]:
            part.segment.path.unlink()  # a crash came after it was merged
    for those in tables.values():
        newest = max(part.label.last for part in those)
        for part in those[:-1]:
            yield _Old(part.segment, part.label, newest - part.label.last + 1)


def _neighbours(item: _Old, old: Iterable[_Old]) -> list[_Old]:
    """Return the segments before and after one, of the same table and session."""
    same = [
        other
        for other in old
        if (other.segment.table, other.label.session) == (item.segment.table, item.label.session)
    ]
    before = [other for other in same if _number(other) < _number(item)]
    after = [other for other in same if _number(other) > _number(item)]
    return [*sorted(before, key=_number)[-1:], *sorted(after, key=_number)[:1]]


def _merge(older: _Old, newer: _Old) -> _Old:
    """Put the rows of two segments into the newer one; a reader then passes over the older."""
    first, second = read_part(older.segment), read_part(newer.segment)
    assert first is not None
    assert second is not None
    since = older.segment.number if older.label.since is None else older.label.since
    stride = min(older.label.stride, newer.label.stride)
    label = replace(newer.label, since=since, stride=stride)
    rows = arrow().concat_tables([first.rows, second.rows], promote_options="permissive")
    write_parquet(newer.segment.path, rows.unify_dictionaries(), label)
    older.segment.path.unlink()
    return newer._replace(label=label)


def _halve(segment: Segment, label: Label) -> Label:
    """Thin one segment; one step always stays, because its session must not be forgotten."""
    part = read_part(segment)
    if part is None:
        return label
    steps = part.rows["step"].to_numpy()
    if (steps == steps[0]).all():
        return label
    stride, kept = label.stride, np.ones(len(steps), bool)
    while kept.all():
        stride *= 2
        kept = steps % stride == 0
    if not kept.any():
        kept = steps == steps[-1]
    thinned = replace(label, stride=stride, last=int(steps[kept].max()))
    write_parquet(segment.path, part.rows.filter(arrow().array(kept)), thinned)
    return thinned
