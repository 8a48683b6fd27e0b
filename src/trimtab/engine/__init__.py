"""The order of operations in one optimizer step, owned by one object."""

from trimtab.engine._result import StepResult
from trimtab.engine._stepper import Stepper

__all__ = ["StepResult", "Stepper"]
