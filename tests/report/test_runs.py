import json
import os

import numpy as np
import pytest

from trimtab.errors import ConfigError
from trimtab.report._runs import RunData, Steps, arrange


def test_a_recorded_run(make_run):
    data = RunData.load(make_run(num_steps=100, num_layers=8, every=10, skipped=(20,)))
    assert data.name == "run"
    assert data.ended
    np.testing.assert_array_equal(data.steps.steps, np.arange(100))
    assert data.layers.keys() == {"parameter", "module"}
    one = data.layers["parameter"]
    assert one.sites[:2] == ("embed.weight", "blocks.0.attention.q_proj.weight")
    assert one.values["gradient.norm"].shape == (8, 10)
    assert np.isnan(one.values["gradient.norm"][:, 2]).all()
    assert one.recorded.all()
    assert np.flatnonzero(data.steps.skipped).tolist() == [20]
    assert [event["kind"] for event in data.events] == ["skipped"]


def test_a_run_that_goes_on_has_not_ended(make_run):
    assert not RunData.load(make_run(num_steps=20, close=False)).ended


def test_a_run_that_was_not_watched(csv_run):
    data = RunData.load(csv_run)
    assert data.name == "gpt-20261124-150203"
    assert data.ended
    assert data.layers == {}
    assert data.events == []
    assert data.config == {"recipe": "gpt", "optimizer": {"lr": 0.001}}
    np.testing.assert_allclose(data.steps.get("step.seconds")[1:], 0.5)
    assert "seconds" not in data.steps.values
    assert data.steps.has("gradient.norm")


def test_the_summary_of_before_a_resumed_run_does_not_count(csv_run):
    written = (csv_run / "summary.json").stat().st_mtime
    os.utime(csv_run / "metrics.csv", (written + 5, written + 5))
    data = RunData.load(csv_run)
    assert data.summary == {}
    assert not data.ended


def test_a_damaged_summary_is_none(csv_run):
    for text in ("{", "[1]"):
        (csv_run / "summary.json").write_text(text, encoding="utf-8")
        assert RunData.load(csv_run).summary == {}
    (csv_run / "config.toml").write_text("= 3", encoding="utf-8")
    assert RunData.load(csv_run).config == {}


def test_no_run(tmp_path):
    with pytest.raises(ConfigError):
        RunData.load(tmp_path)


def test_rows_become_a_matrix_in_the_order_of_the_model():
    columns = {
        "step": np.array([0, 0, 10, 10, 20]),
        "site": np.array(["b", "a", "a", "b", "c"], object),
        "x": np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        "note": np.array(["?"] * 5, object),
    }
    made = arrange(columns, ["a", "never", "b"])
    assert made.sites == ("a", "b", "c")
    assert made.values.keys() == {"x"}
    nan = np.nan
    np.testing.assert_array_equal(made.values["x"], [[2, 3, nan], [1, 4, nan], [nan, nan, 5]])
    np.testing.assert_array_equal(made.recorded, np.isfinite(made.values["x"]))


def test_a_table_without_rows_is_none():
    assert arrange({}, []) is None
    assert arrange({"step": np.zeros(0), "site": np.zeros(0, object)}, []) is None


def steps(**values):
    columns = {k.replace("__", "."): np.array(v, float) for k, v in values.items()}
    return Steps(steps=np.arange(len(next(iter(columns.values())))), values=columns)


def test_a_skipped_step_does_not_count_as_clipped():
    one = steps(gradient__clip_coefficient=[1, 0.5, 0, np.nan], step__skipped=[0, 0, 1, 0])
    assert one.clipped.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("loss", "skipped", "broken"),
    [
        ([1, np.nan, np.inf], [0, 0, 0], [False, True, True]),
        ([np.nan, np.nan], [0, 0], [False, False]),  # never given
        ([np.nan, np.nan], [0, 1], [False, True]),
    ],
)
def test_a_loss_that_was_not_given_is_not_broken(loss, skipped, broken):
    assert steps(loss=loss, step__skipped=skipped).broken.tolist() == broken


def test_info_may_say_nothing(make_run):
    path = make_run(num_steps=20)
    (path / "signals" / "info.json").write_text(json.dumps({}), encoding="utf-8")
    data = RunData.load(path)
    assert data.name == "run"
    assert data.layers["module"].sites[0] == "embed"
