"""What trimtab raises and warns with.

TrimtabError
├── ConfigError       can never work as given; also a ValueError
├── StateError        right call, wrong moment; also a RuntimeError
└── DivergedError     the run is lost and was stopped; also a FloatingPointError

StabilityWarning      works, but is known to make training unstable; a UserWarning
"""


class TrimtabError(Exception):
    """Base of everything that trimtab raises on purpose."""


class ConfigError(TrimtabError, ValueError):
    """An argument, a file or a combination of settings that can never work."""


class StateError(TrimtabError, RuntimeError):
    """A call that is right in itself but comes at the wrong moment."""


class DivergedError(TrimtabError, FloatingPointError):
    """Training cannot go on: too many steps in a row had no finite gradient.

    Attributes:
        result: What the last step did, if nobody has been given it yet.
    """

    result: object = None


class StabilityWarning(UserWarning):
    """A setting that runs but is known to make training unstable.

    Turn it into an error with `warnings.simplefilter("error", trimtab.StabilityWarning)`.
    """
