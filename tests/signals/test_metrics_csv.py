import math

import numpy as np
import pyarrow as pa
import pytest

from trimtab import ConfigError
from trimtab.signals._metrics_csv import join_metrics, read_metrics_csv
from trimtab.train._metrics import MetricsFile


@pytest.fixture
def path(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.append({"step": 0, "loss": 1.5, "grad_norm": math.inf, "skipped": 1, "lr": 1e-3})
    file.append({"step": 1, "loss": math.nan, "grad_norm": 2.0, "skipped": 0, "val_loss": 4.0})
    file.close()
    return tmp_path / "metrics.csv"


def test_names_become_those_of_the_signals(path):
    table = read_metrics_csv(path)

    assert table.column_names == [
        "step",
        "loss",
        "gradient.norm",
        "gradient.clip_coefficient",
        "learning_rate",
        "loss_scale",
        "step.skipped",
        "tokens",
        "seconds",
        "val_loss",
    ]
    assert table["step"].to_pylist() == [0, 1]
    assert table["gradient.norm"].to_pylist() == [math.inf, 2]
    assert table["step.skipped"].to_pylist() == [1, 0]


def test_what_is_empty_is_null_and_nan_is_not(path):
    table = read_metrics_csv(path)

    assert table["val_loss"].to_pylist() == [None, 4]
    assert table["loss"].null_count == 0
    assert math.isnan(table["loss"][1].as_py())


def test_cut_anywhere_gives_whole_lines(path):
    data = path.read_bytes()
    header = data.index(b"\n") + 1
    for size in range(header, len(data) + 1):
        path.write_bytes(data[:size])
        assert len(read_metrics_csv(path)) == data[header:size].count(b"\n")


@pytest.mark.parametrize("text", ["", "name,value\na,1\n", "step"])
def test_another_file_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(ConfigError, match="has no column 'step', so it is not the metrics file"):
        read_metrics_csv(path)


def test_a_line_that_makes_no_sense_is_refused(path):
    path.write_text("step,loss\n0,one\n")
    with pytest.raises(ConfigError, match="cannot be read as a metrics file"):
        read_metrics_csv(path)


class TestJoin:
    def join(self, steps, metrics):
        table = join_metrics(pa.table(steps), pa.table(metrics))
        return table.to_pydict()

    def test_adds_columns_and_steps_and_overwrites_nothing(self):
        steps = {"step": [1, 2, 5], "loss": [1.0, math.inf, 5.0], "memory": [7.0, 8.0, 9.0]}
        metrics = {"step": [0, 1, 2, 4], "loss": [10.0, 11.0, 12.0, 14.0], "val": [0.0, None, 2, 4]}

        assert self.join(steps, metrics) == {
            "step": [0, 1, 2, 4, 5],
            "loss": [10.0, 1.0, math.inf, 14.0, 5.0],
            "memory": [None, 7.0, 8.0, None, 9.0],
            "val": [0.0, None, 2.0, 4.0, None],
        }

    def test_nan_is_a_value(self):
        joined = self.join({"step": [0], "loss": [math.nan]}, {"step": [0], "loss": [1.0]})

        assert math.isnan(joined["loss"][0])

    def test_empty_metrics_change_nothing(self):
        steps = {"step": [3], "loss": [1.0]}
        empty = {"step": pa.array([], pa.int64()), "loss": pa.array([], pa.float64())}

        assert self.join(steps, empty) == steps
        assert self.join(empty, steps) == steps

    def test_of_repeated_steps_the_last_counts(self):
        joined = self.join({"step": [1], "x": [1.0]}, {"step": [1, 2, 1], "y": [1.0, 2.0, 3.0]})

        assert joined == {"step": [1, 2], "x": [1.0, None], "y": [3.0, 2.0]}

    def test_a_long_run_takes_little_time(self):
        step = np.arange(200_000)
        joined = join_metrics(pa.table({"step": step[::2]}), pa.table({"step": step, "y": step}))

        assert len(joined) == len(step)
