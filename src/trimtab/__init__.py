"""trimtab keeps the training of deep networks stable.

Parts that work alone (`init`, `nn`, `optim`, `precision`, `losses`), one line that clips, protects
and watches any loop (`attach`), one object that owns the order of an optimizer step (`Stepper`),
and a command that trains with all of it (`trimtab train`).
"""

from importlib.metadata import version as _version

from trimtab import init, losses, nn, optim, precision, signals
from trimtab.engine import Stepper, StepResult, Trim, attach
from trimtab.errors import (
    ConfigError,
    DivergedError,
    StabilityWarning,
    StateError,
    TrimtabError,
)
from trimtab.llm import LLMConfig
from trimtab.signals import Watch, load_run

__version__ = _version("trimtab")

__all__ = [
    "ConfigError",
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
    "init",
    "load_run",
    "losses",
    "nn",
    "optim",
    "precision",
    "signals",
]
