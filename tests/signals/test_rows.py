import errno
import os

import numpy as np
import pyarrow as pa
import pytest

from trimtab import ConfigError
from trimtab.signals._rows import Rows, SiteCodes, Stream, append_bytes, column_kinds
from trimtab.signals._segments import Label

LABEL = Label(session=0, start=0)


def rows_of(columns, *, has_sites=True, num_bytes=4096):
    kinds = column_kinds(columns, {})
    return Rows(kinds, has_sites=has_sites, num_bytes=num_bytes, at_least=1)


class TestRows:
    def test_keeps_float64_and_makes_the_rest_float32_or_float64(self):
        given = {
            "half": np.ones(2, np.float16),
            "single": np.ones(2, np.float32),
            "double": np.ones(2, np.float64),
            "count": np.ones(2, np.int64),
        }

        kinds = {name: dtype for name, (dtype, _) in column_kinds(given, {}).items()}

        assert kinds == {
            "half": np.float32,
            "single": np.float32,
            "double": np.float64,
            "count": np.float64,
        }

    def test_copies_what_it_is_given(self):
        values = np.array([1, 2], np.float32)
        rows = rows_of({"x": values})
        rows.put(7, np.array([0, 1], np.int32), 2, {"x": values})
        values[:] = 0

        batch = rows.batch(rows.schema(LABEL), pa.array(["a", "b"]))

        assert batch.to_pylist() == [
            {"step": 7, "site": "a", "x": 1.0},
            {"step": 7, "site": "b", "x": 2.0},
        ]

    def test_what_is_missing_is_null_and_nan_is_not(self):
        rows = rows_of({"x": np.ones(1, np.float32), "bins": np.ones((1, 2), np.float32)})
        codes = np.zeros(1, np.int32)
        rows.put(0, codes, 1, {"x": np.array([np.nan], np.float32)})
        rows.put(1, codes, 1, {"bins": np.array([[3, np.inf]], np.float32)})

        batch = rows.batch(rows.schema(LABEL), pa.array(["a"]))

        assert batch["x"].null_count == 1
        assert np.isnan(batch["x"][0].as_py())
        assert batch["x"][1].as_py() is None
        assert batch["bins"].to_pylist() == [None, [3, np.inf]]

    def test_refuses_a_column_of_another_length(self):
        rows = rows_of({"x": np.ones(2, np.float32)})

        with pytest.raises(ConfigError) as caught:
            rows.put(0, np.zeros(2, np.int32), 2, {"x": np.ones(1, np.float32)})

        assert str(caught.value) == (
            "Signal 'x' has 1 values, but the record has 2 sites. Pass one value for each site."
        )
        assert rows.count == 0

    def test_refuses_another_number_of_bins(self):
        rows = rows_of({"x": np.ones((1, 4), np.float32)})

        with pytest.raises(ConfigError, match=r"has \(1,\) bins a site, and had \(4,\)"):
            rows.put(0, np.zeros(1, np.int32), 1, {"x": np.ones((1, 1), np.float32)})

    def test_has_the_bytes_it_was_given(self):
        rows = rows_of({"x": np.ones(2, np.float32)}, num_bytes=1600)

        assert rows.room == 100  # 8 of the step, 4 of the site, 4 of the value


class TestSiteCodes:
    def test_numbers_sites_as_they_come(self):
        codes = SiteCodes()

        assert codes.of(["a", "b"]).tolist() == [0, 1]
        assert codes.of(["b", "c"]).tolist() == [1, 2]
        assert codes.names().to_pylist() == ["a", "b", "c"]

    def test_a_list_that_was_changed_is_not_mistaken_for_the_old_one(self):
        codes, sites = SiteCodes(), ["a", "b"]
        codes.of(sites)
        sites[1] = "c"

        assert codes.of(sites).tolist() == [0, 2]

    def test_names_stay_the_same_object_until_a_site_is_new(self):
        codes = SiteCodes()
        codes.of(("a", "b"))
        names = codes.names()
        codes.of(("b",))
        assert codes.names() is names
        codes.of(("c",))
        assert len(codes.names()) == 3


class TestStream:
    def test_is_readable_after_every_write_and_takes_new_sites(self, tmp_path):
        rows, codes = rows_of({"x": np.ones(1, np.float32)}), SiteCodes()
        stream = Stream(tmp_path / "s.arrows", rows.schema(LABEL))
        for step, site in enumerate("aba"):
            rows.put(step, codes.of((site,)), 1, {"x": np.ones(1, np.float32)})
            stream.write(rows.batch(stream.schema, codes.names()))
            rows.clear()

            read = pa.ipc.open_stream(stream.path.read_bytes()).read_all()

            assert read["site"].to_pylist() == list("aba")[: step + 1]
            assert stream.num_bytes == stream.path.stat().st_size


class TestAppendBytes:
    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
    def test_leaves_the_file_as_it_was_if_only_a_part_fits(self, tmp_path, monkeypatch, error):
        path = tmp_path / "file"
        append_bytes(path, b"whole", new=True)
        write, calls = os.write, []

        def half(handle, data):
            calls.append(len(data))
            if len(calls) > 1:
                raise error
            return write(handle, bytes(data)[:2])

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(type(error)):
            append_bytes(path, b"more", new=False)

        assert calls == [4, 2]
        assert path.read_bytes() == b"whole"

    def test_writes_on_when_the_system_takes_a_part(self, tmp_path, monkeypatch):
        write = os.write
        monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data)[:3]))

        append_bytes(tmp_path / "file", b"0123456789", new=True)

        assert (tmp_path / "file").read_bytes() == b"0123456789"

    def test_does_not_make_a_file_that_should_exist(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            append_bytes(tmp_path / "gone", b"x", new=False)

    def test_does_not_touch_a_file_that_should_not_exist(self, tmp_path):
        (tmp_path / "old").write_bytes(b"old")
        with pytest.raises(FileExistsError):
            append_bytes(tmp_path / "old", b"x", new=True)
