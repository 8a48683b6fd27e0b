"""trimtab keeps the training of deep networks stable."""

from trimtab.errors import (
    ConfigError,
    DivergedError,
    StabilityWarning,
    StateError,
    TrimtabError,
)

__all__ = [
    "ConfigError",
    "DivergedError",
    "StabilityWarning",
    "StateError",
    "TrimtabError",
]
