import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest

from trimtab import ConfigError
from trimtab.signals import RunWriter, load_run
from trimtab.train._metrics import MetricsFile


@pytest.fixture
def run(tmp_path):
    writer = RunWriter(tmp_path / "runs" / "one", info={"seed": 1})
    for step in range(3):
        writer.append("steps", step, {"loss": np.array([step + 0.1])})
        values = np.array([step, np.nan, np.inf], np.float32)
        writer.append("parameters", step, {"weight.norm": values}, ("a", "b", "c"))
        if step == 1:
            bins = np.ones((1, 4), np.float32)
            writer.append("histograms", step, {"count": bins}, ("a",))
            writer.append("modules", step, {"activation.rms": np.ones(1, np.float32)}, ("m",))
    writer.append("modules", 2, {"activation.max": np.ones(1, np.float32)}, ("m",))
    writer.close()
    return tmp_path / "runs" / "one"


class TestTable:
    def test_long_holds_every_scalar_once(self, run):
        rows = load_run(run).table().with_columns(pl.col(pl.Categorical).cast(str)).rows()

        assert rows[:3] == [(step, "step", "", "loss", step + 0.1) for step in range(3)]
        assert len(rows) == 3 + 9 + 2
        parameters = rows[3:12]
        assert [row[:4] for row in parameters] == [
            (step, "parameter", site, "weight.norm") for step in range(3) for site in "abc"
        ]
        assert np.isnan([row[4] for row in parameters if row[2] == "b"]).all()
        assert {row[4] for row in parameters if row[2] == "c"} == {np.inf}
        assert rows[12:] == [  # what was not measured is not there
            (1, "module", "m", "activation.rms", 1.0),
            (2, "module", "m", "activation.max", 1.0),
        ]

    def test_types(self, run):
        assert dict(load_run(run).table().schema) == {
            "step": pl.Int64,
            "family": pl.Categorical,
            "site": pl.Categorical,
            "signal": pl.Categorical,
            "value": pl.Float64,
        }
        wide = dict(load_run(run).table("parameters").schema)
        assert wide == {"step": pl.Int64, "site": pl.Categorical, "weight.norm": pl.Float32}

    @pytest.mark.parametrize("name", ["all", "steps", "parameters", "modules", "histograms"])
    def test_backends_agree(self, run, name):
        ours = load_run(run).table(name)
        theirs = load_run(run).table(name, backend="pandas")

        assert isinstance(theirs, pd.DataFrame)
        assert list(theirs.columns) == ours.columns
        for column in ours.columns:
            if column != "count":
                expected = (
                    ours[column].cast(str) if ours[column].dtype == pl.Categorical else ours[column]
                )
                np.testing.assert_array_equal(theirs[column].to_numpy(), expected.to_numpy())
        assert theirs["step"].dtype == np.int64

    def test_columns_of_later_records_are_null_before(self, run):
        modules = load_run(run).table("modules")

        assert modules["activation.rms"].to_list() == [1.0, None]
        assert modules["activation.max"].to_list() == [None, 1.0]

    def test_tables_that_every_run_may_have_are_empty_at_first(self, tmp_path):
        RunWriter(tmp_path, info={}).close()
        run = load_run(tmp_path)

        assert dict(run.table("steps").schema) == {"step": pl.Int64}
        assert dict(run.table("modules").schema) == {"step": pl.Int64, "site": pl.Categorical}
        assert run.table().columns == ["step", "family", "site", "signal", "value"]
        assert run.table(backend="pandas").empty
        assert run.last_step is None
        assert run.tables == run.events() == run.sites("modules") == []

    def test_another_name_is_refused_with_those_that_there_are(self, run):
        with pytest.raises(ConfigError) as caught:
            load_run(run).table("losses")

        assert str(caught.value) == (
            f"{run} has no table 'losses'. It has 'all', 'steps', 'parameters', 'modules', "
            "'histograms'."
        )

    def test_another_backend_is_refused(self, run):
        with pytest.raises(ConfigError, match=r"^backend must be 'polars' or 'pandas', got 'dask'"):
            load_run(run).table(backend="dask")

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["polars", "pandas"])
    def test_a_million_values_in_seconds(self, tmp_path, backend):
        writer = RunWriter(tmp_path, info={}, segment_bytes=2**20)
        sites = tuple(f"site.{i}" for i in range(50))
        columns = {f"x{i}": np.random.default_rng(i).random(50, np.float32) for i in range(10)}
        for step in range(2000):
            writer.append("parameters", step, columns, sites)
        writer.close()
        load_run(tmp_path).table(backend=backend)  # imports

        began = time.perf_counter()
        table = load_run(tmp_path).table(backend=backend)
        seconds = time.perf_counter() - began

        assert len(table) == 1_000_000
        assert seconds < 2  # benchmarks/store.py: far less; another process may be busy


class TestAbout:
    def test_sites_tables_and_last_step(self, run):
        opened = load_run(str(run))

        assert opened.path == run
        assert opened.info == {"seed": 1}
        assert opened.tables == ["steps", "parameters", "modules", "histograms"]
        assert opened.sites("parameters") == ["a", "b", "c"]
        assert opened.sites("steps") == []
        assert opened.last_step == 2
        files = (run / "signals").iterdir()
        assert opened.num_bytes == sum(path.stat().st_size for path in files)

    def test_the_inner_folder_means_the_run(self, run):
        assert load_run(run / "signals").path == run


class TestMetrics:
    def write(self, folder, steps, **more):
        folder.mkdir(exist_ok=True)
        file = MetricsFile(folder / "metrics.csv")
        for step in steps:
            file.append({"step": step, "loss": 100.0 + step, "lr": 0.1, "tokens": 8 * step, **more})
        file.close()

    def test_a_run_of_trimtab_train_needs_no_signals(self, tmp_path):
        self.write(tmp_path, range(4))
        run = load_run(tmp_path)

        assert run.tables == ["steps"]
        assert run.last_step == 3
        assert run.table("steps")["learning_rate"].to_list() == [0.1] * 4
        assert set(run.table()["signal"].cast(str)) == {"loss", "learning_rate", "tokens"}
        assert (run.info, run.events(), run.num_bytes) == ({}, [], 0)
        assert run.table("parameters").height == 0

    def test_both_are_joined_by_step(self, run):
        self.write(run, range(1, 5), val_loss=7.0)
        steps = load_run(run).table("steps")

        assert steps["step"].to_list() == [0, 1, 2, 3, 4]
        assert steps["loss"].to_list() == [0.1, 1.1, 2.1, 103.0, 104.0]
        assert steps["val_loss"].to_list() == [None, 7, 7, 7, 7]
        assert steps["tokens"].to_list() == [None, 8, 16, 24, 32]


class TestRefusal:
    def message(self, path):
        with pytest.raises(ConfigError) as caught:
            load_run(path)
        return str(caught.value)

    def test_a_folder_that_is_not_there(self, tmp_path):
        assert self.message(tmp_path / "no") == (
            f"The run folder {tmp_path / 'no'} does not exist. Pass the folder of a run."
        )

    def test_a_file(self, run):
        path = run / "signals" / "info.json"
        assert self.message(path) == f"The run folder {path} is a file. Pass the folder of a run."

    def test_a_folder_that_is_no_run(self, tmp_path):
        assert self.message(tmp_path) == (
            f"{tmp_path} is not the folder of a run: it has neither signals/info.json nor "
            "metrics.csv. Pass the folder that the run was told to write to."
        )

    def test_a_folder_of_runs(self, run):
        RunWriter(run.with_name("two"), info={}).close()
        os.utime(run, (1, 1))

        assert self.message(run.parent).endswith(
            f" Pass one of the 2 runs in it, of which {run.with_name('two')} is the newest."
        )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("hidden", "call"),
        [
            ("pyarrow", "load_run(path)"),
            ("pyarrow", "RunWriter(pathlib.Path(path), info={})"),
            ("polars", "load_run(path).table()"),
            ("pandas", "load_run(path).table(backend='pandas')"),
        ],
    )
    def test_a_package_that_is_not_installed(self, run, hidden, call):
        output = without(hidden, call, run)

        assert f" needs {hidden}, which cannot be imported (" in output
        assert "pip install 'trimtab[watch]'" in output or hidden == "pandas"
        assert output.startswith("ConfigError: ")

    @pytest.mark.slow
    @pytest.mark.parametrize(("hidden", "backend"), [("polars", "pandas"), ("pandas", "polars")])
    def test_one_backend_does_without_the_other(self, run, hidden, backend):
        assert without(hidden, f"print(load_run(path).table(backend={backend!r}).shape)", run) == (
            "(14, 5)\n"
        )


def without(hidden, call, run):
    code = (
        "import importlib.abc, importlib.util, pathlib, sys\n"
        "class Hide(importlib.abc.MetaPathFinder, importlib.abc.Loader):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.partition('.')[0] == {hidden!r}:\n"
        "            return importlib.util.spec_from_loader(name, self)\n"
        "    def create_module(self, spec): raise ImportError(spec.name)\n"
        "sys.meta_path.insert(0, Hide()); path = sys.argv[1]\n"
        "from trimtab.signals import RunWriter, load_run\n"
        f"try: {call}\n"
        "except Exception as error: print(f'{type(error).__name__}: {error}')"
    )
    command = [sys.executable, "-c", code, str(run)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
