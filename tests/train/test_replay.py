import math
from dataclasses import dataclass, field, replace

import pytest
import torch

from trimtab import ConfigError
from trimtab.guard import Change, list_bundles, read_bundle
from trimtab.losses import cross_entropy
from trimtab.recipes import find_recipe
from trimtab.recipes._text import TextData
from trimtab.train import Recipe, RunConfig, replay
from trimtab.train._metrics import read_metrics

BAD = 9
"""The step whose batch is damaged."""


@pytest.fixture
def broken(line):
    """A run of the line recipe with a damaged batch, and its incident."""
    usual = line.recipe.build

    def build(config, generator):
        def batch(index):
            x, y = line.batch(index)
            number = index // config.optimizer.accumulate + 1
            return (x, y * math.nan if number == BAD else y)

        return replace(usual(config, generator), batch=batch)

    def go(**settings):
        line.recipe = replace(line.recipe, build=build)
        _, folder = line.train(watch=0, save_every=0, eval_every=0, **settings)
        line.recipe = replace(line.recipe, build=usual)
        (incident,) = list_bundles(folder / "incidents")
        return folder, incident

    return go


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": {"clip": 0.0}},
        {"optimizer": {"clip": 0.01, "schedule": "wsd"}},
        {"optimizer": {"accumulate": 2}, "guard": "nonfinite"},
    ],
)
def test_is_bit_for_bit_the_run(line, broken, settings):
    folder, incident = broken(**settings)
    before = torch.get_rng_state()

    as_it_was, without = replay(line.recipe, incident, changes=[Change(without=frozenset({BAD}))])

    losses = {row["step"]: row["loss"] for row in read_metrics(folder / "metrics.csv")}
    assert as_it_was.reproduced is True
    assert repr(as_it_was.losses) == repr(tuple(losses[step] for step in as_it_was.steps))
    assert as_it_was.steps[-1] == BAD
    assert math.isnan(as_it_was.losses[-1])
    assert (as_it_was.healed, without.healed) == (False, True)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_was_recorded_holds_the_settings(broken):
    _, incident = broken(optimizer={"clip": 0.5})

    config = read_bundle(incident).config

    assert config["recipe"] == "line"
    assert config["optimizer"]["clip"] == 0.5
    assert config["run"]["guard"] == "spike"


def test_another_recipe_is_refused(line, broken):
    _, incident = broken()

    with pytest.raises(ConfigError, match=r"is of the recipe 'line', not of 'stablenet'\."):
        replay(find_recipe("stablenet"), incident)


@dataclass(frozen=True, kw_only=True)
class OlderConfig:
    """Settings of before there was a schedule, a clip and the rest."""

    run: RunConfig = field(default_factory=RunConfig)


def test_settings_that_are_not_known_are_named(line, broken):
    _, incident = broken()
    older = Recipe(name="line", default=OlderConfig(), build=line.build)

    with pytest.raises(ConfigError, match=r"config\.json has an unknown key 'optimizer'\."):
        replay(older, incident)


def test_a_device_that_is_not_there_is_told_with_the_way_out(line, broken):
    _, incident = broken()
    bundle = read_bundle(incident)
    elsewhere = {**bundle.config, "run": {**bundle.config["run"], "device": "warp"}}

    with pytest.raises(ConfigError, match=r"was on warp\. .* Replay elsewhere with --device cpu"):
        replay(line.recipe, replace(bundle, config=elsewhere))

    (row,) = replay(line.recipe, replace(bundle, config=elsewhere), device="cpu")
    assert row.reproduced


def test_the_data_of_the_run_are_not_needed(run, tmp_path, monkeypatch):
    book = tmp_path / "book.txt"
    book.write_text("the quick brown fox jumps over the lazy dog, " * 400)
    usual = TextData.batch

    def batch(self, index, batch_size):
        x, y = usual(self, index, batch_size)
        return (x, torch.zeros_like(y)) if index == BAD - 1 else (x, y)

    def loss(logits, targets, **options):
        value = cross_entropy(logits, targets, **options)
        return value * math.nan if not targets.any() else value

    monkeypatch.setattr(TextData, "batch", batch)
    monkeypatch.setattr("trimtab.recipes._gpt.cross_entropy", loss)
    _, folder = run("gpt", task={"data": book}, run={"watch": 0, "eval_every": 0})
    (incident,) = list_bundles(folder / "incidents")
    book.unlink()

    (row,) = replay(find_recipe("gpt"), incident)

    assert row.reproduced
    assert read_bundle(incident).config["task"]["data"] == str(book)
