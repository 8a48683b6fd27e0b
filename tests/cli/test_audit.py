import json
import sys
from pathlib import Path

import pytest

from trimtab.cli import main

MODULE = """
import torch
from trimtab.engine import TrainingSetup

print("importing")


def build(seed):
    torch.random.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = [(x, x[:, :2]) for x in torch.randn(1, 24, 4)]
    return TrainingSetup(model, optimizer, torch.nn.MSELoss(), batches)


def save(setup):
    return setup.model.state_dict()


def load(setup, state):
    setup.model.load_state_dict(state)


def undivided(setup, micro_batches):
    print("accumulating")
    setup.optimizer.zero_grad()
    for x, y in micro_batches:
        setup.loss_fn(setup.model(x), y).backward()
    setup.optimizer.step()
"""
RESUME = ["audit", "resume", "audited:build"]
ACCUMULATION = ["audit", "accumulation", "audited:build"]
FORGETFUL = [*RESUME, "--save", "audited:save", "--load", "audited:load"]


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    Path("audited.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("audited", None)


def test_without_a_subject_the_subjects_are_listed(capsys):
    assert main(["audit"]) == main(["audit", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: trimtab audit resume BUILD [options]\n")


@pytest.mark.parametrize("subject", ["resume", "accumulation"])
def test_every_subject_has_help(subject, capsys):
    with pytest.raises(SystemExit) as end:
        main(["audit", subject, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: trimtab audit {subject} ")


@pytest.mark.parametrize("args", [RESUME, ACCUMULATION])
def test_a_sound_function_passes(args, capsys):
    assert main(args) == 0
    told = capsys.readouterr()
    assert told.out.startswith("nothing found\n")
    assert told.err == "importing\n"


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (FORGETFUL, "optimizer-not-resumed"),
        ([*ACCUMULATION, "--accumulate", "audited:undivided"], "accumulation-not-divided"),
    ],
)
def test_what_differs_is_named(args, name, capsys):
    assert main(args) == 1
    assert capsys.readouterr().out.splitlines()[0].split()[1] == name
    assert main([*args, "--exit-zero"]) == 0
    assert main([*args, "--ignore", name]) == 0


def test_for_programs_nothing_else_is_on_standard_output(capsys):
    args = [*ACCUMULATION, "--accumulate", "audited:undivided", "--format", "json"]
    assert main(args) == 1
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert (result["subject"], result["ok"]) == ("accumulation", False)
    assert [f["name"] for f in result["findings"]] == ["accumulation-not-divided"]
    assert "accumulating\n" in told.err


def test_the_projects_settings_count(capsys):
    Path("pyproject.toml").write_text(
        "[tool.trimtab]\nignore = ['optimizer-not-resumed']\n", encoding="utf-8"
    )
    assert main(FORGETFUL) == 0
    assert main([*FORGETFUL, "--select", "optimizer-not-resumed"]) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["resum"], "There is no audit of 'resum'. Did you mean 'resume'?"),
        (["resume", "audit:build"], "There is no module 'audit' here"),
        (["resume", "audited:biuld"], "audited has no 'biuld'. Did you mean 'build'?"),
        (["resume", "audited:build", "--ignore", "TT999"], "ignore has 'TT999', which is neither"),
    ],
)
def test_wrong_usage_is_told(args, message, capsys):
    assert main(["audit", *args]) == 2
    assert message in capsys.readouterr().err
