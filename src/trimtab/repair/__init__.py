"""Repair: find out what is wrong with a run, mend it, and train again until it is healthy."""

from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._repair import repair
from trimtab.repair._result import Attempt, RepairResult
from trimtab.repair._scaled import Scaled

__all__ = ["Attempt", "Edit", "RepairResult", "Scaled", "TrainingSetup", "repair"]
