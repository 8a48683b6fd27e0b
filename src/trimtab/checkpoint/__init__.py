"""State that survives: atomic, verified checkpoints that need no unpickling."""

from trimtab.checkpoint._atomic import write_atomic
from trimtab.checkpoint._random import random_state, restore_random_state
from trimtab.checkpoint._store import (
    list_checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)

__all__ = [
    "list_checkpoints",
    "load_checkpoint",
    "load_latest",
    "random_state",
    "restore_random_state",
    "save_checkpoint",
    "write_atomic",
]
