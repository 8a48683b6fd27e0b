import dataclasses

import pytest
import torch

from trimtab import ConfigError
from trimtab.train import Recipe, Task


def test_a_recipe_of_ones_own_is_trained(line):
    summary, folder = line.train(steps=60)
    assert summary["recipe"] == "line"
    assert summary["num_parameters"] == 4
    assert summary["final_loss"] < summary["initial_loss"] / 2
    assert 'recipe = "line"' in (folder / "config.toml").read_text()


def test_batches_are_asked_for_by_their_index(line):
    line.train(steps=4)
    assert line.indices == [0, 1, 2, 3]


def test_every_micro_batch_has_an_index_of_its_own(line):
    line.train(steps=3, optimizer={"accumulate": 2})
    assert line.indices == [0, 1, 2, 3, 4, 5]


def test_a_part_is_looked_at_while_training_and_all_at_the_end(line):
    summary, _ = line.train(steps=12, eval_every=5)
    assert line.scopes == ["quick", "quick", "full"]
    assert line.modes == [(False, False)] * 3  # neither dropout nor gradients
    assert summary["val_loss"] > 0


def test_weights_are_counted(line):
    summary, _ = line.train(steps=3)
    assert summary["tokens"] == 4 + 5 + 6


def test_initial_weights_come_from_the_generator(line):
    seeds = {}
    for seed in (0, 0, 1):
        task = line.build(line.recipe.default, torch.Generator().manual_seed(seed))
        seeds.setdefault(seed, []).append(task.model[0].weight.detach())
    assert torch.equal(*seeds[0])
    assert not torch.equal(seeds[0][0], seeds[1][0])


def test_what_build_refuses_leaves_nothing(line, tmp_path):
    def refuse(config, generator):
        raise ConfigError("no data")

    line.recipe = dataclasses.replace(line.recipe, build=refuse)
    with pytest.raises(ConfigError, match="no data"):
        line.train()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cls", [Task, Recipe])
def test_is_frozen_and_by_keyword(cls, line):
    task = line.build(line.recipe.default, torch.Generator())
    thing = task if cls is Task else line.recipe
    name = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, name, None)
    with pytest.raises(TypeError, match="positional"):
        cls("line")
