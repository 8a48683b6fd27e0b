"""State that survives: atomic, verified checkpoints that need no unpickling."""

from trimtab.checkpoint._async import AsyncCheckpointer
from trimtab.checkpoint._async_sharded import AsyncShardedCheckpointer
from trimtab.checkpoint._atomic import write_atomic
from trimtab.checkpoint._random import random_state, restore_random_state, seeded
from trimtab.checkpoint._sharded import load_latest_sharded, load_sharded, save_sharded
from trimtab.checkpoint._store import (
    list_checkpoints,
    load_checkpoint,
    load_latest,
    mark_checkpoint,
    save_checkpoint,
)

__all__ = [
    "AsyncCheckpointer",
    "AsyncShardedCheckpointer",
    "list_checkpoints",
    "load_checkpoint",
    "load_latest",
    "load_latest_sharded",
    "load_sharded",
    "mark_checkpoint",
    "random_state",
    "restore_random_state",
    "save_checkpoint",
    "save_sharded",
    "seeded",
    "write_atomic",
]
