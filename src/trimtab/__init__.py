"""trimtab keeps the training of deep networks stable.

Parts that work alone (`init`, `nn`, `optim`, `precision`, `losses`), one line that clips, guards,
watches and judges any loop (`attach`), one object that owns the order of an optimizer step
(`Stepper`), a guard that brings a broken run back (`guard`), checks before a run (`preflight`) and
of a run that fails (`diagnose`), its repair (`repair`), and a command that trains with all of it
(`trimtab train`).
"""

from importlib.metadata import version as _version

from trimtab import findings, guard, init, losses, nn, optim, precision, signals
from trimtab.diagnosis import Diagnosis, diagnose
from trimtab.engine import Stepper, StepResult, TrainingSetup, Trim, attach
from trimtab.errors import (
    ConfigError,
    DivergedError,
    StabilityWarning,
    StateError,
    TrimtabError,
)
from trimtab.guard import Guard
from trimtab.llm import LLMConfig
from trimtab.preflight import preflight
from trimtab.repair import RepairResult, repair
from trimtab.signals import Watch, load_run

__version__ = _version("trimtab")

__all__ = [
    "ConfigError",
    "Diagnosis",
    "DivergedError",
    "Guard",
    "LLMConfig",
    "RepairResult",
    "StabilityWarning",
    "StateError",
    "StepResult",
    "Stepper",
    "TrainingSetup",
    "Trim",
    "TrimtabError",
    "Watch",
    "__version__",
    "attach",
    "diagnose",
    "findings",
    "guard",
    "init",
    "load_run",
    "losses",
    "nn",
    "optim",
    "precision",
    "preflight",
    "repair",
    "signals",
]
