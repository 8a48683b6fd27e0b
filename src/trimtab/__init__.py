"""trimtab keeps the training of deep networks stable.

Parts that work alone (`init`, `nn`, `optim`, `precision`, `losses`), one line that clips, protects,
watches and judges any loop (`attach`), one object that owns the order of an optimizer step
(`Stepper`), checks before a run (`preflight`) and of a run that fails (`diagnose`), and a command
that trains with all of it (`trimtab train`).
"""

from importlib.metadata import version as _version

from trimtab import findings, init, losses, nn, optim, precision, signals
from trimtab.diagnosis import Diagnosis, diagnose
from trimtab.engine import Stepper, StepResult, Trim, attach
from trimtab.errors import (
    ConfigError,
    DivergedError,
    StabilityWarning,
    StateError,
    TrimtabError,
)
from trimtab.llm import LLMConfig
from trimtab.preflight import preflight
from trimtab.signals import Watch, load_run

__version__ = _version("trimtab")

__all__ = [
    "ConfigError",
    "Diagnosis",
    "DivergedError",
    "LLMConfig",
    "StabilityWarning",
    "StateError",
    "StepResult",
    "Stepper",
    "Trim",
    "TrimtabError",
    "Watch",
    "__version__",
    "attach",
    "diagnose",
    "findings",
    "init",
    "load_run",
    "losses",
    "nn",
    "optim",
    "precision",
    "preflight",
    "signals",
]
