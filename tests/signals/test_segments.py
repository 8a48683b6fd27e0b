import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from trimtab import ConfigError
from trimtab.signals import RunWriter, load_run
from trimtab.signals import _segments as segments
from trimtab.signals._segments import (
    Label,
    clean,
    compact,
    folder_bytes,
    label_of,
    list_segments,
    read_label,
    read_rows,
    thin,
)

NUM_SITES = 3


def write_stream(run, steps=range(40), every=10, table="parameters"):
    """Write one segment and leave it as a killed process would."""
    writer = RunWriter(run, info={}, flush_s=1e9)
    sites = tuple("abc")
    for step in steps:
        values = np.arange(NUM_SITES, dtype=np.float32) + 10 * step
        writer.append(table, step, {"x": values, "y": -values}, sites)
        if step % every == every - 1:
            writer.flush()
    writer.flush()
    writer._finalizer.detach()
    return writer


@pytest.fixture
def stream(tmp_path):
    write_stream(tmp_path)
    (segment,) = list_segments(tmp_path / "signals")
    return segment


def steps_of(rows):
    return [] if rows is None else rows["step"].to_pylist()


class TestRead:
    def test_a_stream_cut_anywhere_gives_its_whole_batches(self, stream, tmp_path):
        data = stream.path.read_bytes()
        whole = read_rows(stream).to_pylist()
        assert len(whole) == 40 * NUM_SITES
        lengths = []

        for size in range(len(data) + 1):
            stream.path.write_bytes(data[:size])
            rows = read_rows(stream)
            found = [] if rows is None else rows.to_pylist()
            assert found == whole[: len(found)], size
            lengths.append(len(found))
            if found:
                assert read_label(stream) == Label(session=0, start=0)

        assert sorted(set(lengths)) == [n * NUM_SITES for n in (0, 10, 20, 30, 40)]
        assert lengths == sorted(lengths)
        assert lengths[-1] == len(whole)

    def test_a_cut_stream_is_read_through_the_run(self, stream, tmp_path):
        data = stream.path.read_bytes()
        stream.path.write_bytes(data[:-5])

        assert load_run(tmp_path).table("parameters")["step"].max() == 29

    @pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not arrow at all"], ids=len)
    def test_what_is_no_stream_has_no_rows(self, stream, data, tmp_path):
        stream.path.write_bytes(data)

        assert read_rows(stream) is None
        assert read_label(stream) is None
        assert load_run(tmp_path).table("parameters").shape == (0, 2)

    def test_a_stream_that_ends_in_zeros_keeps_what_is_before(self, stream):
        data = stream.path.read_bytes()
        stream.path.write_bytes(data + b"\0" * 4096)  # after a power cut

        assert len(read_rows(stream)) == 40 * NUM_SITES

    def test_a_later_format_is_refused(self):
        table = pytest.importorskip("pyarrow").table({"step": [1]})
        fields = json.dumps({"session": 0, "start": 0, "format": 2}).encode()

        with pytest.raises(ConfigError, match=r"in format 2, and this version reads 1\. Install"):
            label_of(table.replace_schema_metadata({b"trimtab": fields}).schema)

    def test_foreign_files_are_passed_over(self, stream, tmp_path):
        table = read_rows(stream).replace_schema_metadata({})
        pq.write_table(table, stream.path.with_name("other-00009.parquet"))
        stream.path.with_name("notes.txt").write_text("mine")
        stream.path.with_name("parameters-1.arrows").write_text("mine")

        assert len(load_run(tmp_path).table("parameters")) == 40 * NUM_SITES


class TestCompact:
    def test_keeps_every_row_label_and_type(self, stream):
        before = read_rows(stream)

        compact(stream)

        (after,) = list_segments(stream.path.parent)
        assert after.compacted
        assert not stream.path.exists()
        assert read_rows(after).equals(before)
        assert read_rows(after).schema.equals(before.schema)
        assert read_label(after) == Label(session=0, start=0, last=39)

    def test_a_stream_without_rows_goes(self, stream):
        stream.path.write_bytes(b"")
        compact(stream)

        assert list_segments(stream.path.parent) == []

    def test_a_full_disk_leaves_the_stream(self, stream, monkeypatch):
        def full(path, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(segments, "write_atomic", full)
        with pytest.raises(OSError, match="No space"):
            compact(stream)

        assert list_segments(stream.path.parent) == [stream]
        assert len(read_rows(stream)) == 40 * NUM_SITES

    def test_killed_before_the_stream_went_rows_come_once(self, stream, tmp_path):
        copy = tmp_path / "copy"
        shutil.copy(stream.path, copy)
        compact(stream)
        shutil.copy(copy, stream.path)

        assert len(load_run(tmp_path).table("parameters")) == 40 * NUM_SITES
        clean(stream.path.parent)
        assert not stream.path.exists()

    def test_an_unfinished_file_is_ignored_and_cleaned_by_the_next_writer(self, stream, tmp_path):
        half = stream.path.with_name(".parameters-00001.parquet.123.tmp")
        half.write_bytes(b"PAR1 and no end")

        assert len(load_run(tmp_path).table("parameters")) == 40 * NUM_SITES
        RunWriter(tmp_path, info={}).close()
        assert not half.exists()
        assert len(load_run(tmp_path).table("parameters")) == 40 * NUM_SITES


def make_segments(run, num=8, steps=64, stride=1, table="parameters"):
    for index in range(num):
        first = index * steps * stride
        write_stream(run, range(first, first + steps * stride, stride), table=table)
    folder = run / "signals"
    for segment in list_segments(folder):
        compact(segment)
    return folder


def stride_of(segment):
    label = read_label(segment)
    assert all(step % label.stride == 0 for step in steps_of(read_rows(segment)))
    assert label.last == max(steps_of(read_rows(segment)))
    return label.stride


class TestThin:
    def test_halves_old_segments_and_leaves_the_newest(self, tmp_path):
        folder = make_segments(tmp_path)
        before = folder_bytes(folder)

        thin(folder, before * 3 // 4)

        assert folder_bytes(folder) <= before * 3 // 4
        strides = [stride_of(segment) for segment in list_segments(folder)]
        assert strides == sorted(strides, reverse=True)
        assert strides[-1] == 1
        assert strides[0] > 1
        newest = steps_of(read_rows(list_segments(folder)[-1]))
        assert newest == [step for step in range(7 * 64, 8 * 64) for _ in range(NUM_SITES)]

    def test_does_nothing_below_the_limit(self, tmp_path):
        folder = make_segments(tmp_path, num=2)
        names = {p: p.stat().st_mtime_ns for p in folder.iterdir()}

        thin(folder, folder_bytes(folder))

        assert names == {p: p.stat().st_mtime_ns for p in folder.iterdir()}

    def test_doubles_until_something_goes(self, tmp_path):
        folder = make_segments(tmp_path, num=2, stride=8)

        thin(folder, folder_bytes(folder) - 1)

        assert stride_of(list_segments(folder)[0]) == 16

    def test_steps_go_last(self, tmp_path):
        make_segments(tmp_path, num=4, table="steps")
        folder = make_segments(tmp_path, num=4)

        thin(folder, folder_bytes(folder) - 500)

        touched = {s.table for s in list_segments(folder) if stride_of(s) > 1}
        assert touched == {"parameters"}

    def test_ends_when_nothing_is_left_to_take(self, tmp_path):
        folder = make_segments(tmp_path, num=4, steps=4)

        thin(folder, 1)

        first, last = list_segments(folder)
        assert set(steps_of(read_rows(first))) == {0}
        assert set(steps_of(read_rows(last))) == {12, 13, 14, 15}
