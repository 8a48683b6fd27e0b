"""The trimtab command."""

from trimtab.cli._judge import load_rules
from trimtab.cli._main import main

__all__ = ["load_rules", "main"]
