"""The order of operations in one optimizer step, owned by one object or attached to any loop."""

from trimtab.engine._attach import Trim, attach
from trimtab.engine._result import StepResult
from trimtab.engine._run_info import describe_run
from trimtab.engine._stepper import Stepper

__all__ = ["StepResult", "Stepper", "Trim", "attach", "describe_run"]
