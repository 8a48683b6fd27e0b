import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab import ConfigError
from trimtab.recipes import GPTConfig, StableNetConfig
from trimtab.train import apply_settings, read_toml, to_toml


@pytest.mark.parametrize("config", [GPTConfig(), StableNetConfig()])
def test_settings_read_back_the_same(config):
    config = replace(
        config,
        run=replace(config.run, out=Path("some/folder"), steps=7),
        optimizer=replace(config.optimizer, lr=3e-5, schedule="wsd"),
    )
    settings = tomllib.loads(to_toml(config, recipe="x"))
    assert settings.pop("recipe") == "x"
    assert apply_settings(type(config)(), settings, "file") == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rnu": {}}, r"file has an unknown key 'rnu'. Did you mean 'run'\?"),
        ({"run": {"step": 3}}, r"file \[run\] has an unknown key 'step'. Did you mean 'steps'\?"),
        ({"run": 3}, r"run must be a table, \[run\], got 3"),
        ({"run": {"steps": "many"}}, r"steps must be int, got 'many'"),
        ({"run": {"steps": 1.5}}, r"steps must be int, got 1.5"),
        ({"run": {"steps": True}}, r"steps must be int, got True"),
        ({"run": {"steps": 0}}, r"file \[run\]: steps must be at least 1, got 0"),
        ({"run": {"precision": "fp8"}}, "precision must be one of auto, fp32, bf16, fp16"),
        ({"optimizer": {"lr": float("nan")}}, "lr must be positive and finite, got nan"),
        ({"model": {"dim": 10, "heads": 3}}, "cannot be divided among 3 heads"),
    ],
)
def test_bad_settings_are_refused_with_their_place(settings, message):
    with pytest.raises(ConfigError, match=message):
        apply_settings(GPTConfig(), settings, "file")


def test_whole_numbers_do_for_fractions():
    assert apply_settings(GPTConfig(), {"optimizer": {"clip": 2}}, "f").optimizer.clip == 2.0


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", b"= 3"])
def test_files_that_are_no_toml(tmp_path, content):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a TOML file"):
        read_toml(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read the settings file .*No such file"):
        read_toml(tmp_path / "nothing.toml")
