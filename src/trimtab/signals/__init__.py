"""Measured signals: what is measured, how it is kept, and how it is read again."""

from trimtab.signals._catalogue import SIGNALS, Signal, signal_table
from trimtab.signals._histogram import histogram_edges
from trimtab.signals._load import Run, load_run
from trimtab.signals._locate import (
    NonfiniteSource,
    locate_nonfinite,
    locate_nonfinite_gradient,
)
from trimtab.signals._loggers import (
    Logger,
    ScalarLoggers,
    csv_logger,
    mlflow_logger,
    tensorboard_logger,
    wandb_logger,
)
from trimtab.signals._readback import Readback
from trimtab.signals._record import StepRecord
from trimtab.signals._recorder import Recorder
from trimtab.signals._replicas import ReplicaDifference, replica_differences
from trimtab.signals._sample import local
from trimtab.signals._store import RunWriter
from trimtab.signals._taps import Uncopied, site_name, unwrapped
from trimtab.signals._watch import Watch, as_watch

__all__ = [
    "SIGNALS",
    "Logger",
    "NonfiniteSource",
    "Readback",
    "Recorder",
    "ReplicaDifference",
    "Run",
    "RunWriter",
    "ScalarLoggers",
    "Signal",
    "StepRecord",
    "Uncopied",
    "Watch",
    "as_watch",
    "csv_logger",
    "histogram_edges",
    "load_run",
    "local",
    "locate_nonfinite",
    "locate_nonfinite_gradient",
    "mlflow_logger",
    "replica_differences",
    "signal_table",
    "site_name",
    "tensorboard_logger",
    "unwrapped",
    "wandb_logger",
]
