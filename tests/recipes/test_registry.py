import dataclasses

import pytest

from trimtab import ConfigError
from trimtab.recipes import RECIPES, GPTConfig, StableNetConfig, find_recipe
from trimtab.train import OptimizerConfig, Recipe, RunConfig


def test_the_first_is_the_default_of_the_command():
    assert list(RECIPES) == ["gpt", "stablenet"]


@pytest.mark.parametrize(("name", "config"), [("gpt", GPTConfig), ("stablenet", StableNetConfig)])
def test_a_recipe_is_found_by_its_own_name(name, config):
    recipe = find_recipe(name)
    assert isinstance(recipe, Recipe)
    assert recipe.name == name
    assert recipe.default == config()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_shared_settings(name):
    default = RECIPES[name].default
    assert isinstance(default.run, RunConfig)
    assert isinstance(default.optimizer, OptimizerConfig)
    tables = [getattr(default, field.name) for field in dataclasses.fields(default)]
    assert all(dataclasses.is_dataclass(table) for table in tables)


@pytest.mark.parametrize("name", RECIPES)
def test_no_two_settings_of_a_recipe_share_an_option(name):
    """Tables are left out of the names of options: --depth, not --model.depth."""
    default = RECIPES[name].default
    names = [
        field.name
        for table in dataclasses.fields(default)
        for field in dataclasses.fields(getattr(default, table.name))
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stabelnet", "There is no recipe 'stabelnet'. Did you mean 'stablenet'? Known are: gpt, "),
        ("xyz", "There is no recipe 'xyz'. Known are: gpt, stablenet."),
        ("", "There is no recipe ''. Known are"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known(name, message):
    with pytest.raises(ConfigError) as refused:
        find_recipe(name)
    assert str(refused.value).startswith(message)
