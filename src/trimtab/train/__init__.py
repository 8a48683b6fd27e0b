"""A complete training program: settings, loop, run folder. Needs the `train` extra."""

from trimtab.train._config import OptimizerConfig, RunConfig, require
from trimtab.train._folder import RunFolder, newest_folder, to_json
from trimtab.train._replay import replay
from trimtab.train._run import train
from trimtab.train._task import Batch, Recipe, RecipeConfig, Scope, Task
from trimtab.train._toml import apply_settings, read_toml, suggest, to_toml

__all__ = [
    "Batch",
    "OptimizerConfig",
    "Recipe",
    "RecipeConfig",
    "RunConfig",
    "RunFolder",
    "Scope",
    "Task",
    "apply_settings",
    "newest_folder",
    "read_toml",
    "replay",
    "require",
    "suggest",
    "to_json",
    "to_toml",
    "train",
]
