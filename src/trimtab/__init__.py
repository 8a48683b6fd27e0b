"""trimtab keeps the training of deep networks stable.

Parts that work alone (`init`, `nn`, `optim`, `precision`, `losses`), one object that owns the order
of an optimizer step (`Stepper`), and a command that trains with all of it (`trimtab train`).
"""

from importlib.metadata import version as _version

from trimtab import init, losses, nn, optim, precision
from trimtab.engine import Stepper, StepResult
from trimtab.errors import (
    ConfigError,
    DivergedError,
    StabilityWarning,
    StateError,
    TrimtabError,
)
from trimtab.llm import LLMConfig

__version__ = _version("trimtab")

__all__ = [
    "ConfigError",
    "DivergedError",
    "LLMConfig",
    "StabilityWarning",
    "StateError",
    "StepResult",
    "Stepper",
    "TrimtabError",
    "__version__",
    "init",
    "losses",
    "nn",
    "optim",
    "precision",
]
