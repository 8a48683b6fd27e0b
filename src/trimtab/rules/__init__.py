"""Rules over signals: what a run shows of its faults while it goes on.

Each rule is in a file of its own, named by its code; they are loaded when a run is first judged.
"""

from trimtab.rules._all import load_rules, run_rules
from trimtab.rules._diagnose_run import diagnose_run
from trimtab.rules._history import History, Series, Table
from trimtab.rules._judge import Judge, note_finding
from trimtab.rules._rule import RunRule
from trimtab.rules._setup import GroupFacts, ModuleFacts, ParamFacts, Setup, describe_setup

__all__ = [
    "GroupFacts",
    "History",
    "Judge",
    "ModuleFacts",
    "ParamFacts",
    "RunRule",
    "Series",
    "Setup",
    "Table",
    "describe_setup",
    "diagnose_run",
    "load_rules",
    "note_finding",
    "run_rules",
]
