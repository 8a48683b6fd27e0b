import errno
import json
import math
import os
from datetime import datetime

import pytest

from trimtab import ConfigError
from trimtab.engine import new_run_folder
from trimtab.train import RunFolder, newest_folder, to_json


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "one")


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


class TestCreate:
    def test_makes_the_folder_with_its_settings(self, folder):
        folder.create("recipe = 'gpt'\n")
        assert folder.config.read_text() == "recipe = 'gpt'\n"
        assert folder.checkpoints.is_dir()
        assert {p.name for p in folder.path.iterdir()} == {"config.toml", "checkpoints"}

    def test_an_empty_folder_is_taken(self, folder):
        folder.path.mkdir(parents=True)
        folder.create("")
        assert folder.config.exists()

    @pytest.mark.parametrize(
        ("name", "way_out"),
        [
            ("config.toml", "Pass --resume to go on with it, or another --out"),
            ("x", "Pass another"),
        ],
    )
    def test_an_occupied_one_is_not(self, folder, name, way_out):
        folder.path.mkdir(parents=True)
        (folder.path / name).write_text("mine")
        with pytest.raises(ConfigError, match=f"one is not empty, .* {way_out}"):
            folder.create("theirs")
        assert [p.read_text() for p in folder.path.iterdir()] == ["mine"]

    def test_a_file_of_that_name(self, folder):
        folder.path.parent.mkdir()
        folder.path.write_text("mine")
        with pytest.raises(ConfigError, match="nothing is ever overwritten"):
            folder.create("")
        assert folder.path.read_text() == "mine"

    def test_a_place_where_no_folder_can_be(self, folder):
        folder.path.parent.write_text("a file")
        with pytest.raises(ConfigError, match=r"Cannot write the run folder .*: Not a directory"):
            folder.create("")

    @pytest.mark.parametrize("call", ["mkdir", "fsync"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
    def test_a_disk_that_is_full_or_not_ours(self, folder, monkeypatch, call, number):
        monkeypatch.setattr(os, call, failing(number))
        reason = os.strerror(number)
        message = rf"Cannot write the run folder .*/one: {reason}\. Pass another --out\."
        with pytest.raises(ConfigError, match=message):
            folder.create("")
        assert not folder.config.exists()


class TestSummary:
    def test_comes_back(self, folder):
        folder.create("")
        assert folder.read_summary() is None
        folder.write_summary({"steps": 3, "val_loss": 0.1, "out": "grüße"})
        assert folder.read_summary() == {"steps": 3, "val_loss": 0.1, "out": "grüße"}

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_json_cannot_hold_is_null(self, folder, value):
        folder.create("")
        folder.write_summary({"loss": value, "steps": 3})

        def refuse(constant):
            raise ValueError(constant)

        text = folder.summary.read_text()
        assert json.loads(text, parse_constant=refuse) == {"loss": None, "steps": 3}
        assert to_json({"loss": value}) == '{"loss": null}'

    def test_a_full_disk_leaves_the_old_one(self, folder, monkeypatch):
        folder.create("")
        folder.write_summary({"steps": 1})
        monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(OSError, match="No space left"):
            folder.write_summary({"steps": 2})
        assert folder.read_summary() == {"steps": 1}


class TestNames:
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_a_new_name_is_free(self, monkeypatch):
        class Noon(datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2026, 3, 4, 12, 0, 5)

        monkeypatch.setattr("trimtab.engine._run_info.datetime", Noon)
        names = []
        for _ in range(3):
            path = new_run_folder("gpt")
            RunFolder(path).create("")
            names.append(str(path))
        assert names == [f"runs/gpt-20260304-120005{end}" for end in ("", "-2", "-3")]

    def test_the_newest_run_with_a_checkpoint_is_found(self):
        for age, name in enumerate(["gpt-c", "gpt-a", "gpt-b", "stablenet-a"]):
            folder = RunFolder(new_run_folder("x").parent / name)
            folder.create("")
            if name != "gpt-b":
                (folder.checkpoints / "step-00000001").mkdir()
            os.utime(folder.path, (age, age))
        assert str(newest_folder("gpt")) == "runs/gpt-a"
        assert str(newest_folder("stablenet")) == "runs/stablenet-a"

    def test_without_any(self):
        with pytest.raises(ConfigError, match="There is no run of gpt with a checkpoint"):
            newest_folder("gpt")
