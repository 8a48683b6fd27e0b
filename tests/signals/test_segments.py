import json
import shutil
from dataclasses import replace
from pathlib import Path

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
    current,
    label_of,
    list_segments,
    read_part,
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


def read_rows(segment):
    part = read_part(segment)
    return None if part is None else part.rows


def read_label(segment):
    part = read_part(segment, [])
    return None if part is None else part.label


class TestRead:
    @pytest.mark.slow
    def test_a_stream_cut_anywhere_gives_its_whole_batches(self, tmp_path):
        write_stream(tmp_path, range(6), every=2)
        (stream,) = list_segments(tmp_path / "signals")
        data = stream.path.read_bytes()
        whole = read_rows(stream).to_pylist()
        assert len(whole) == 6 * NUM_SITES
        lengths = []

        for size in range(len(data) + 1):
            stream.path.write_bytes(data[:size])
            rows = read_rows(stream)
            found = [] if rows is None else rows.to_pylist()
            assert found == whole[: len(found)], size
            lengths.append(len(found))
            if found:
                assert read_label(stream) == Label(session=0, start=0)

        assert sorted(set(lengths)) == [n * NUM_SITES for n in (0, 2, 4, 6)]
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

    def test_reads_only_the_columns_that_are_asked_for(self, stream):
        for segment in (stream, stream._replace(path=stream.path.with_suffix(".parquet"))):
            if segment is not stream:
                compact(stream)
            assert read_part(segment, ["y", "none"]).rows.column_names == ["y"]
            assert read_part(segment, []).rows is None

    def test_a_stream_that_became_parquet_since_it_was_listed(self, stream):
        before = read_rows(stream)
        compact(stream)

        assert read_rows(stream).equals(before)

    def test_a_segment_that_went_since_it_was_listed(self, stream):
        stream.path.unlink()
        with pytest.raises(FileNotFoundError):
            read_part(stream)

    def test_a_disk_that_cannot_be_read_is_not_taken_for_an_empty_one(self, stream, monkeypatch):
        def refused(*_, **__):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(Path, "open", refused)
        with pytest.raises(OSError, match="Too many"):
            compact(stream)
        monkeypatch.undo()

        assert len(read_rows(stream)) == 40 * NUM_SITES

    @pytest.mark.parametrize("size", [0, 100, -1])
    def test_damaged_parquet_is_left_out_aloud(self, stream, tmp_path, size):
        compact(stream)
        (segment,) = list_segments(stream.path.parent)
        segment.path.write_bytes(segment.path.read_bytes()[:size])

        with pytest.warns(UserWarning, match=r"parameters-00001\.parquet is damaged and left out"):
            assert load_run(tmp_path).table("parameters").shape == (0, 2)

    def test_what_was_merged_into_another_is_left_out(self, stream):
        part = read_part(stream)
        later = part._replace(segment=stream._replace(number=5), label=replace(part.label, since=1))
        other = part._replace(segment=stream._replace(table="modules", number=2))

        assert current([part, other, later]) == [other, later]

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
        assert read_rows(after).schema.equals(before.schema, check_metadata=False)
        assert read_label(after) == Label(session=0, start=0, last=39)

    def test_a_stream_without_rows_goes(self, stream):
        stream.path.write_bytes(b"")
        compact(stream)

        assert list_segments(stream.path.parent) == []

    def test_a_stream_of_somebody_else_stays(self, stream):
        pa = pytest.importorskip("pyarrow")
        table = pa.table({"step": [1]})
        with pa.ipc.new_stream(str(stream.path), table.schema) as writer:
            writer.write_table(table)

        compact(stream)

        assert stream.path.exists()

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
