"""Complete runs by name: model, data, loss and settings that train stably as they are."""

from trimtab.recipes._gpt import GPTConfig
from trimtab.recipes._registry import RECIPES, find_recipe
from trimtab.recipes._stablenet import StableNetConfig

__all__ = ["RECIPES", "GPTConfig", "StableNetConfig", "find_recipe"]
