import csv
import math
import sys
import time
import types

import numpy as np
import pytest

from trimtab import ConfigError
from trimtab.signals import (
    ScalarLoggers,
    csv_logger,
    mlflow_logger,
    tensorboard_logger,
    wandb_logger,
)
from trimtab.signals._loggers import flatten

SCALARS = {"loss": 1.5, "weight.norm/blocks.0.fc": 2.0}


def log_two_steps(logger):
    logger(0, SCALARS)
    logger(1, {**SCALARS, "loss": math.nan})
    logger.close()


class TestFlatten:
    def test_step_signals_keep_their_names(self):
        assert flatten({"loss": np.array([1.5]), "step.skipped": np.array([0])}) == {
            "loss": 1.5,
            "step.skipped": 0.0,
        }

    def test_sites_follow_the_signal_and_bins_are_left_out(self):
        columns = {"x": np.array([1, 2], np.float32), "count": np.ones((2, 4))}

        assert flatten(columns, ["a.b", "c"]) == {"x/a.b": 1.0, "x/c": 2.0}


class TestScalarLoggers:
    def test_every_callable_is_a_logger(self):
        heard = []
        loggers = ScalarLoggers([lambda step, scalars: heard.append((step, scalars))])
        loggers(3, SCALARS)
        loggers.close()
        loggers.close()
        loggers(4, SCALARS)

        assert heard == [(3, SCALARS)]

    def test_one_that_fails_is_switched_off_with_one_warning(self):
        heard, warned = [], []

        def broken(step, scalars):
            raise RuntimeError("the server is away")

        loggers = ScalarLoggers([broken, lambda *_: heard.append(1)], warn=warned.append)
        for step in range(3):
            loggers(step, SCALARS)
        loggers.close()

        assert len(heard) == 3
        assert warned == [
            "The logger broken failed and is switched off; training goes on. "
            "RuntimeError: the server is away"
        ]

    def test_one_that_cannot_be_closed_does_not_stop_the_others(self):
        class Bad:
            def __call__(self, step, scalars): ...

            def close(self):
                raise OSError("full")

        class Good(Bad):
            closed = False

            def close(self):
                self.closed = True

        good = Good()
        with pytest.warns(UserWarning, match=r"^The logger Bad failed .* OSError: full$"):
            ScalarLoggers([Bad(), good]).close()

        assert good.closed

    def test_the_user_may_still_stop_the_run(self):
        def stop(step, scalars):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ScalarLoggers([stop])(0, SCALARS)


class TestCsv:
    def read(self, path):
        return list(csv.DictReader(path.read_text().splitlines()))

    def test_one_line_a_step_at_once(self, tmp_path):
        logger = csv_logger(tmp_path / "new" / "log.csv")
        logger(0, SCALARS)

        assert self.read(tmp_path / "new" / "log.csv") == [
            {"step": "0", "loss": "1.5", "weight.norm/blocks.0.fc": "2.0"}
        ]
        log_two_steps(logger)

    def test_nan_stays(self, tmp_path):
        log_two_steps(csv_logger(tmp_path / "log.csv"))

        assert [row["loss"] for row in self.read(tmp_path / "log.csv")] == ["1.5", "nan"]

    def test_takes_new_columns_and_goes_on_with_an_old_file(self, tmp_path):
        path = tmp_path / "log.csv"
        log_two_steps(csv_logger(path))
        logger = csv_logger(path)
        logger(2, {"loss": 1.0})
        logger(3, {"new, with comma": 5.0})
        logger.close()

        rows = self.read(path)
        assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
        assert [row["new, with comma"] for row in rows] == ["", "", "", "5.0"]
        assert [row["loss"] for row in rows] == ["1.5", "nan", "1.0", ""]

    def test_a_path_that_cannot_be_written_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"^csv_logger cannot write .*: Is a directory\."):
            csv_logger(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_logged(tmp_path):
    log_two_steps(tensorboard_logger(tmp_path / "tb"))
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(tmp_path / "tb"))
    accumulator.Reload()

    assert sorted(accumulator.Tags()["scalars"]) == sorted(SCALARS)
    loss = accumulator.Scalars("loss")
    assert [event.step for event in loss] == [0, 1]
    assert loss[0].value == 1.5
    assert math.isnan(loss[1].value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_what_was_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs all of mlflow
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = (tmp_path / "mlruns").as_uri()
    log_two_steps(mlflow_logger(tracking_uri=uri, experiment="deep", run_name="one"))

    client = pytest.importorskip("mlflow.tracking").MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("deep").experiment_id])
    assert run.info.status == "FINISHED"
    norms = client.get_metric_history(run.info.run_id, "weight.norm/blocks.0.fc")
    assert [(metric.step, metric.value) for metric in norms] == [(0, 2.0), (1, 2.0)]

    running = client.create_run(run.info.experiment_id).info.run_id
    log_two_steps(mlflow_logger(tracking_uri=uri, run_id=running))
    assert client.get_run(running).info.status == "RUNNING"
    assert client.get_run(running).data.metrics["weight.norm/blocks.0.fc"] == 2.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_a_run_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_two_steps(wandb_logger(mode="offline", dir=str(tmp_path), project="p"))

    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 20
    while b"weight.norm/blocks.0.fc" not in file.read_bytes():  # another process writes it
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_wandb_leaves_an_active_run_open(monkeypatch):
    logged = []
    run = types.SimpleNamespace(
        log=logged.append,
        define_metric=lambda *_, **__: None,
        finish=lambda: logged.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run))

    logger = wandb_logger()
    logger(7, {"loss": 1.0})
    logger.close()

    assert logged == [{"loss": 1.0, "step": 7}]


@pytest.mark.parametrize(
    ("make", "package"),
    [
        (lambda: tensorboard_logger("x"), "tensorboard"),
        (wandb_logger, "wandb"),
        (mlflow_logger, "mlflow"),
    ],
)
def test_a_package_that_is_not_installed(monkeypatch, make, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ConfigError, match=rf"needs {package}, .* with: pip install {package}$"):
        make()
