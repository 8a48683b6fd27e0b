import json
import sys

import pytest
import torch
from torch import nn

from trimtab import ConfigError
from trimtab.engine import describe_run
from trimtab.engine._run_info import open_run
from trimtab.optim import NormClip
from trimtab.signals import Recorder, Watch


def describe(model, optimizer=None, **options):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    recorder = Recorder(model, list(model.parameters()), watch=Watch())
    options = {"clipper": NormClip(0.5), "config": {"seed": 1}} | options
    return describe_run(model, [optimizer], recorder, **options)


def test_what_a_reader_wants_to_know():
    info = describe(nn.Sequential(nn.Linear(3, 2)))
    assert info == json.loads(json.dumps(info))
    assert info["model"] == {"class": "Sequential", "num_parameters": 8}
    (optimizer,) = info["optimizers"]
    assert optimizer["class"] == "AdamW"
    assert optimizer["groups"][0]["lr"] == 1e-3
    assert optimizer["groups"][0]["num_parameters"] == 8
    assert info["clip"] == "NormClip(0.5, norm_type=2)"
    assert info["config"] == {"seed": 1}
    assert info["environment"]["torch"] == torch.__version__
    assert info["sites"] == {"parameters": ["0.weight", "0.bias"], "modules": ["0"]}
    assert info["watch"]["parameters"] == 10
    assert "T" in info["started"]


def test_wrappers_are_seen_through():
    model = nn.Linear(3, 2)
    assert describe(torch.compile(model, backend="eager"))["model"]["class"] == "Linear"


def test_a_part_that_happens_to_be_called_module_is_no_wrapper():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(3, 2)

    assert describe(Whole())["model"]["class"] == "Whole"


def test_a_learning_rate_that_is_a_tensor_fits_into_json():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.1), fused=True)
    info = describe(model, optimizer)
    json.dumps(info)
    assert info["optimizers"][0]["groups"][0]["lr"] == pytest.approx(0.1)


class TestOpenRun:
    def test_in_memory(self):
        assert open_run(None, {}) == (None, None)

    def test_a_folder_of_ones_choice(self, tmp_path):
        folder, writer = open_run(str(tmp_path / "a"), describe(nn.Linear(3, 2)))
        assert folder == tmp_path / "a"
        writer.close()

    def test_auto_never_takes_a_folder_that_is_there(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        info = describe(nn.Linear(3, 2))
        opened = [open_run("auto", info) for _ in range(3)]
        assert len({folder for folder, _ in opened}) == 3
        for folder, writer in opened:
            assert folder.name.startswith("linear-")
            writer.close()

    def test_without_the_packages(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        info = describe(nn.Linear(3, 2))
        with pytest.raises(ConfigError, match="pyarrow"):
            open_run(tmp_path, info)
        with pytest.warns(UserWarning, match="kept in memory only"):
            assert open_run("auto", info) == (None, None)
