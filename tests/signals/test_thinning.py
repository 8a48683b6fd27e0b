import shutil

import numpy as np

from trimtab.signals import RunWriter, load_run
from trimtab.signals._segments import (
    compact,
    current,
    folder_bytes,
    list_segments,
    read_part,
)
from trimtab.signals._thinning import thin

NUM_SITES = 3


def write_stream(run, steps, table):
    """Write one segment and leave it as a killed process would."""
    writer = RunWriter(run, info={}, flush_s=1e9)
    generator = np.random.default_rng(len(steps))
    for step in steps:
        writer.append(table, step, {"x": generator.random(NUM_SITES, np.float32)}, "abc")
    writer.flush()
    writer._finalizer.detach()


def steps_of(segment):
    return read_part(segment).rows["step"].to_pylist()


def make_segments(run, num=8, steps=64, stride=1, table="parameters"):
    """Write segments of one session each."""
    for index in range(num):
        first = index * steps * stride
        write_stream(run, range(first, first + steps * stride, stride), table)
    folder = run / "signals"
    for segment in list_segments(folder):
        if not segment.compacted:
            compact(segment)
    return folder


def make_session(run, num=32, steps=64):
    """Write segments of one session."""
    writer = RunWriter(run, info={}, flush_s=1e9, segment_bytes=3000)
    generator = np.random.default_rng(0)
    for step in range(num * steps):
        writer.append("parameters", step, {"x": generator.random(NUM_SITES, np.float32)}, "abc")
    writer.close()
    return run / "signals"


def stride_of(segment):
    label = read_part(segment).label
    steps = steps_of(segment)
    assert all(step % label.stride == 0 for step in steps)
    assert label.last == max(steps)
    assert steps == sorted(steps)
    return label.stride


class TestThin:
    def test_halves_old_segments_and_leaves_the_newest(self, tmp_path):
        folder = make_segments(tmp_path)
        before = folder_bytes(folder)

        thin(folder, before * 3 // 4, merge_bytes=0)

        assert folder_bytes(folder) <= before * 3 // 4
        strides = [stride_of(segment) for segment in list_segments(folder)]
        assert strides == sorted(strides, reverse=True)
        assert strides[-1] == 1
        assert strides[0] > 1
        newest = steps_of(list_segments(folder)[-1])
        assert newest == [step for step in range(7 * 64, 8 * 64) for _ in range(NUM_SITES)]

    def test_does_nothing_below_the_limit(self, tmp_path):
        folder = make_segments(tmp_path, num=2)
        names = {p: p.stat().st_mtime_ns for p in folder.iterdir()}

        thin(folder, folder_bytes(folder), merge_bytes=0)

        assert names == {p: p.stat().st_mtime_ns for p in folder.iterdir()}

    def test_doubles_until_something_goes(self, tmp_path):
        folder = make_segments(tmp_path, num=2, stride=8)

        thin(folder, folder_bytes(folder) - 1, merge_bytes=0)

        assert stride_of(list_segments(folder)[0]) in {16, 32}

    def test_steps_go_last(self, tmp_path):
        make_segments(tmp_path, num=4, steps=1000, table="steps")
        folder = make_segments(tmp_path, num=4, steps=1000)

        thin(folder, folder_bytes(folder) - 500, merge_bytes=0)

        touched = {s.table for s in list_segments(folder) if stride_of(s) > 1}
        assert touched == {"parameters"}

    def test_ends_when_nothing_is_left_to_take(self, tmp_path):
        folder = make_segments(tmp_path, num=4, steps=4)

        thin(folder, 1, merge_bytes=0)

        steps = [set(steps_of(segment)) for segment in list_segments(folder)]
        assert steps == [{0}, {4}, {8}, {12, 13, 14, 15}]

    def test_merges_what_has_become_small(self, tmp_path):
        folder = make_session(tmp_path, num=8)
        before = len(list_segments(folder))
        strides = {}

        thin(folder, folder_bytes(folder) // 3, merge_bytes=20_000)

        assert len(list_segments(folder)) < before / 4
        steps = load_run(tmp_path).table("parameters")["step"].to_list()
        assert steps == sorted(steps)
        assert len(steps) == NUM_SITES * len(set(steps))
        for segment in list_segments(folder):
            strides[segment.number] = stride_of(segment)
        assert list(strides.values()) == sorted(strides.values(), reverse=True)

    def test_killed_while_merging_rows_come_once(self, tmp_path):
        folder = make_session(tmp_path, num=4)
        limit = folder_bytes(folder) // 2
        for path in folder.glob("*.parquet"):
            shutil.copy(path, tmp_path)
        thin(folder, limit, merge_bytes=20_000)
        for path in tmp_path.glob("*.parquet"):
            if not (folder / path.name).exists():
                shutil.copy(path, folder)  # merged, but not yet gone

        parts = [read_part(segment) for segment in list_segments(folder)]
        assert len(current(parts)) < len(parts)
        steps = load_run(tmp_path).table("parameters")["step"].to_list()
        assert len(steps) == NUM_SITES * len(set(steps))
        assert steps == sorted(steps)

        thin(folder, folder_bytes(folder) - 1, merge_bytes=0)
        assert load_run(tmp_path).table("parameters")["step"].to_list()[-1] == steps[-1]
        assert len(list_segments(folder)) == len(current(parts))
