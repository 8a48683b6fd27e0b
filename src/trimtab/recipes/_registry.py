"""The recipes by name."""

from typing import Final

from trimtab.errors import ConfigError
from trimtab.recipes._gpt import GPT_RECIPE
from trimtab.recipes._stablenet import STABLENET_RECIPE
from trimtab.train import Recipe, suggest

RECIPES: Final = {recipe.name: recipe for recipe in (GPT_RECIPE, STABLENET_RECIPE)}
"""The first is the default."""


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        ConfigError: It is unknown.
    """
    if name not in RECIPES:
        raise ConfigError(f"There is no recipe {name!r}. {suggest(name, RECIPES)}")
    return RECIPES[name]
