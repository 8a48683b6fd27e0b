"""Packages that `import trimtab` does without, imported when they are first needed."""

import importlib
from typing import Any

from trimtab.errors import ConfigError


def require(module: str, purpose: str, *, install: str = "'trimtab[watch]'") -> Any:
    """Import a module that not every installation has.

    Args:
        module: Its dotted name.
        purpose: What needs it, as the subject of a sentence.
        install: What `pip install` has to be given.

    Returns:
        The module; untyped, because its package may be missing where types are checked.

    Raises:
        ConfigError: It cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{purpose} needs {package}, which cannot be imported ({error}). "
            f"Install it with: pip install {install}"
        ) from error
