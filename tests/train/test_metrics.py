import math
import os

import pytest

from trimtab.train._metrics import MetricsFile, read_metrics


def rows(count):
    return [{"step": i, "loss": 1 / i, "tokens": 8 * i} for i in range(1, count + 1)]


@pytest.fixture
def metrics(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    yield file
    file.close()


def test_rows_come_back_exactly(metrics):
    for row in rows(5):
        metrics.append(row)
    assert read_metrics(metrics.path) == rows(5)


def test_nan_and_infinity_are_kept_as_they_are(metrics):
    metrics.append({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    (row,) = read_metrics(metrics.path)
    assert math.isnan(row["loss"])
    assert row["grad_norm"] == math.inf


def test_a_line_cut_off_by_a_crash_is_left_out(metrics):
    for row in rows(3):
        metrics.append(row)
    with metrics.path.open("ab") as file:
        file.write(b"4,0.2")
    assert read_metrics(metrics.path) == rows(3)


def test_a_resumed_run_goes_on_where_its_checkpoint_was(metrics):
    for row in rows(5):
        metrics.append(row)
    metrics.keep_until(3)
    metrics.append(rows(4)[3])
    assert read_metrics(metrics.path) == rows(4)


def test_a_full_disk_leaves_whole_lines(metrics, monkeypatch):
    metrics.append(rows(1)[0])
    real = os.write

    def half(handle, data):
        if len(data) < 4:
            raise OSError(28, "No space left on device")
        return real(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        metrics.append(rows(2)[1])
    monkeypatch.undo()
    assert read_metrics(metrics.path) == rows(1)
    assert metrics.path.read_bytes().endswith(b"\n")
