"""Every rule over signals, loaded when somebody first asks: `import trimtab` stays quick."""

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from trimtab.findings import Rule, Selection


@cache
def load_rules() -> None:
    """Import all rules of this package, which enters them into the catalogue."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("tt"):
            importlib.import_module(f"trimtab.rules.{module.name}")


def run_rules(selection: Selection | None = None) -> Sequence[Rule]:
    """Return rules over signals, ready to be asked.

    Args:
        selection: Which ones, and with which thresholds; None for all as they are.

    Raises:
        ConfigError: The selection names a threshold that a rule does not have.
    """
    load_rules()
    return (selection or Selection()).rules("run")
