"""The order of operations in one optimizer step, owned by one object or attached to any loop."""

from trimtab.engine._attach import attach
from trimtab.engine._replay_bundle import replay_bundle
from trimtab.engine._result import StepResult
from trimtab.engine._run_info import RUNS, describe_run, new_run_folder
from trimtab.engine._stepper import Stepper
from trimtab.engine._training_setup import TrainingSetup
from trimtab.engine._trim import Trim

__all__ = [
    "RUNS",
    "StepResult",
    "Stepper",
    "TrainingSetup",
    "Trim",
    "attach",
    "describe_run",
    "new_run_folder",
    "replay_bundle",
]
