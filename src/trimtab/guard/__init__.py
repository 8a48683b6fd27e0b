"""The guard: keep a run alive when a step, a batch or the state of training goes bad."""

from trimtab.guard._change import Change

__all__ = ["Change"]
