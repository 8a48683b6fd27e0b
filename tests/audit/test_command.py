import json
import sys

import pytest

from trimtab.audit._command import USAGE, audit_command, show
from trimtab.errors import ConfigError
from trimtab.findings import Selection

MODULE = """
import torch
from trimtab.engine import TrainingSetup


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
    setup.optimizer.zero_grad()
    for x, y in micro_batches:
        setup.loss_fn(setup.model(x), y).backward()
    setup.optimizer.step()
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "audited.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("audited", None)


def codes(*args):
    return [f.code for f in audit_command(args).audit(Selection()).findings]


def test_resume():
    assert codes("resume", "audited:build", "--steps", "6", "--stop", "2") == []
    own = ["--save", "audited:save", "--load", "audited:load"]
    assert codes("resume", "audited.py:build", *own) == ["TT803"]


def test_accumulation():
    assert codes("accumulation", "audited:build", "--micro-batches", "3") == []
    own = ["--accumulate", "audited:undivided"]
    assert codes("accumulation", "audited:build", *own, "--seed", "3") == ["TT414"]


def test_options_are_handed_on():
    words = ["--select", "TT80,TT81", "--ignore", "TT806", "--format", "json", "--exit-zero"]

    given = audit_command(["resume", "audited:build", *words])

    assert (given.select, given.ignore) == (["TT80", "TT81"], ["TT806"])
    assert (given.format, given.exit_zero) == ("json", True)
    told = json.loads(show(given.audit(Selection())))
    assert (told["subject"], told["ok"], told["findings"]) == ("resume", True, [])


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_without_a_subject_there_is_help(args):
    assert audit_command(args) is None
    assert "trimtab audit accumulation" in USAGE


@pytest.mark.parametrize("subject", ["resume", "accumulation"])
def test_each_subject_has_help_of_its_own(subject, capsys):
    with pytest.raises(SystemExit) as stopped:
        audit_command([subject, "--help"])

    assert stopped.value.code == 0
    assert f"usage: trimtab audit {subject}" in capsys.readouterr().out


def test_wrong_usage():
    with pytest.raises(ConfigError, match=r"no audit of 'resum'. Did you mean 'resume'"):
        audit_command(["resum"])
    with pytest.raises(ConfigError, match="There is no module 'nothing'"):
        audit_command(["resume", "nothing:build"])
    with pytest.raises(SystemExit) as stopped:
        audit_command(["resume"])
    assert stopped.value.code == 2
