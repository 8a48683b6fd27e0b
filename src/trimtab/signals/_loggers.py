"""Scalars handed on to other tools while the run goes on; their failure never stops it."""

import csv
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

import numpy as np

from trimtab.checkpoint import write_atomic
from trimtab.errors import ConfigError
from trimtab.signals._optional import require

Scalars = Mapping[str, float]


class Logger(Protocol):
    """Anything that can be called with a step and its scalars; `close`, if it has one, ends it.

    Step signals come under their name, those of a site as `signal/site`.
    """

    def __call__(self, step: int, scalars: Scalars, /) -> None:
        """Take the scalars of one step."""


def flatten(columns: Mapping[str, Any], sites: Sequence[str] | None = None) -> dict[str, float]:
    """Return one record as scalars; signals with bins are left out.

    Args:
        columns: Signal to values of shape (num_sites,), or (1,) without sites.
        sites: Name of each value.
    """
    if sites is None:
        return {name: float(values[0]) for name, values in columns.items() if values.ndim == 1}
    return {
        f"{name}/{site}": value
        for name, values in columns.items()
        if values.ndim == 1
        for site, value in zip(sites, values.tolist(), strict=True)
    }


class ScalarLoggers:
    """Several loggers as one, each of which is switched off by its first error.

    Args:
        loggers: Called in this order.
        warn: Is told of an error, once a logger.
    """

    def __init__(
        self, loggers: Sequence[Logger], *, warn: Callable[[str], None] | None = None
    ) -> None:
        self._loggers = list(loggers)
        self._warn: Final = warn or (lambda message: warnings.warn(message, stacklevel=4))

    def __call__(self, step: int, scalars: Scalars) -> None:
        """Give the scalars to every logger that still works."""
        for logger in tuple(self._loggers):
            self._try(logger, logger, step, scalars)

    def __len__(self) -> int:
        return len(self._loggers)

    def close(self) -> None:
        """Close every logger that can be closed; a second call does nothing."""
        loggers, self._loggers = self._loggers, []
        for logger in loggers:
            if (close := getattr(logger, "close", None)) is not None:
                self._try(logger, close)

    def _try(self, logger: Logger, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001 - whatever a tool raises, training goes on
            with suppress(ValueError):
                self._loggers.remove(logger)
            name = getattr(logger, "__name__", type(logger).__name__).lstrip("_")
            self._warn(
                f"The logger {name} failed and is switched off; training goes on. "
                f"{type(error).__name__}: {error}"
            )


def csv_logger(path: str | Path) -> Logger:
    """Return a logger that appends to a CSV file, one line a call.

    A column that is new is added to the header; earlier lines are empty there. An existing file is
    continued.

    Raises:
        ConfigError: The file cannot be written.
    """
    return _Csv(Path(path))


class _Csv:
    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._columns: list[str] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                with path.open(newline="", encoding="utf-8") as file:
                    self._columns = next(csv.reader(file), [])
            self._file = self._open()
        except OSError as error:
            raise ConfigError(
                f"csv_logger cannot write {path}: {error.strerror}. Pass another path."
            ) from error

    def _open(self) -> TextIO:
        return self._path.open("a", newline="", encoding="utf-8", buffering=1)  # whole lines

    def __call__(self, step: int, scalars: Scalars) -> None:
        row = {"step": step, **scalars}
        if new := [name for name in row if name not in self._columns]:
            self._widen(new)
        values = [row.get(column, "") for column in self._columns]
        csv.writer(self._file, lineterminator="\n").writerow(values)

    def _widen(self, new: Sequence[str]) -> None:
        """Rewrite the file with more columns, which happens a few times at the start of a run."""
        self._file.close()
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        self._columns += new
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._columns)
        writer.writerows(row + [""] * (len(self._columns) - len(row)) for row in rows)
        write_atomic(self._path, text.getvalue().encode())
        self._file = self._open()

    def close(self) -> None:
        self._file.close()


def tensorboard_logger(folder: str | Path) -> Logger:
    """Return a logger that writes TensorBoard's event files.

    Raises:
        ConfigError: tensorboard is not installed.
    """
    purpose = "tensorboard_logger()"
    require("tensorboard", purpose, install="tensorboard")
    return _TensorBoard(require("torch.utils.tensorboard", purpose).SummaryWriter(str(folder)))


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __call__(self, step: int, scalars: Scalars) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def wandb_logger(**init: Any) -> Logger:
    """Return a logger that sends scalars to Weights & Biases.

    Args:
        **init: Given to `wandb.init`: `project`, `name`, `mode="offline"` and so on. A run that is
            active already is used as it is, and left open, when nothing is given.

    Raises:
        ConfigError: wandb is not installed.
    """
    wandb = require("wandb", "wandb_logger()", install="wandb")
    if not init and wandb.run is not None:
        return _Wandb(wandb.run, owned=False)
    return _Wandb(wandb.init(**init), owned=True)


class _Wandb:
    def __init__(self, run: Any, *, owned: bool) -> None:
        self._run = run
        self._owned = owned
        # The tool's own step must not go back, which it would after a resume.
        run.define_metric("*", step_metric="step")

    def __call__(self, step: int, scalars: Scalars) -> None:
        self._run.log({**scalars, "step": step})

    def close(self) -> None:
        if self._owned:
            self._run.finish()


def mlflow_logger(
    *,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    run_id: str | None = None,
    run_name: str | None = None,
) -> Logger:
    """Return a logger that sends scalars to MLflow.

    It does not touch MLflow's active run: the scalars go to the run that is named, or to a new
    one.

    Args:
        tracking_uri: Server, folder or database; MLflow's own setting by default.
        experiment: Name; made if missing.
        run_id: An existing run, which is left open.
        run_name: Of the new run.

    Raises:
        ConfigError: mlflow is not installed.
    """
    tracking = require("mlflow.tracking", "mlflow_logger()", install="mlflow")
    client = tracking.MlflowClient(tracking_uri=tracking_uri)
    if run_id is not None:
        return _Mlflow(client, run_id, owned=False)
    experiment = experiment or "Default"
    found = client.get_experiment_by_name(experiment)
    where = found.experiment_id if found else client.create_experiment(experiment)
    return _Mlflow(client, client.create_run(where, run_name=run_name).info.run_id, owned=True)


class _Mlflow:
    _PER_CALL = 1000  # MLflow's limit for one batch of metrics

    def __init__(self, client: Any, run_id: str, *, owned: bool) -> None:
        self._client = client
        self._run_id = run_id
        self._owned = owned

    def __call__(self, step: int, scalars: Scalars) -> None:
        entities = require("mlflow.entities", "mlflow_logger()")
        now = int(np.datetime64("now", "ms").astype(np.int64))
        metrics = [entities.Metric(k, v, now, step) for k, v in scalars.items()]
        for begin in range(0, len(metrics), self._PER_CALL):
            batch = metrics[begin : begin + self._PER_CALL]
            self._client.log_batch(self._run_id, metrics=batch)

    def close(self) -> None:
        if self._owned:
            self._client.set_terminated(self._run_id)
