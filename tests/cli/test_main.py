import pytest

from trimtab import __version__
from trimtab.cli import main

COMMANDS = ("train", "watch", "report", "check", "diagnose", "replay", "audit", "explain")


def test_help_and_version(capsys):
    assert main([]) == main(["--help"]) == main(["-h"]) == 0
    told = capsys.readouterr().out
    assert "train [RECIPE]" in told
    assert [c for c in COMMANDS if f"\n  {c} " not in told] == []
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trimtab {__version__}\n"


def test_every_command_is_in_the_usage(capsys):
    assert main(["zzz"]) == 2
    known = capsys.readouterr().err.partition("Known are: ")[2].partition(".")[0]
    assert known.split(", ") == list(COMMANDS)


@pytest.mark.parametrize("command", ["check", "diagnose", "replay", "explain"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: trimtab {command} ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "There is no command 'trian'. Did you mean 'train'? Known are: train"),
        (["exlpain"], "There is no command 'exlpain'. Did you mean 'explain'?"),
        (["zzz"], "There is no command 'zzz'. Known are: train, watch, report, check, diagnose"),
        (["relpay"], "There is no command 'relpay'. Did you mean 'replay'?"),
        (["replay", "none"], "none holds no incident"),
        (["audit", "resume", "none.py:build"], "There is no file none.py."),
        (["explain", "los-spike"], "There is no rule 'los-spike'. Did you mean loss-spike"),
        (["check", "none.py"], "none.py"),
        (["check", "--select", "TT7,TT999"], "select has 'TT999', which is neither"),
        (["diagnose", "none"], "none"),
        (["diagnose"], "There is no run under runs/."),
        (["diagnose", "--ignore", "los-spike"], "Did you mean 'loss-spike'?"),
        (["train", "gtp"], "There is no recipe 'gtp'. Did you mean 'gpt'?"),
        (["train", "--config", "none.toml"], "Cannot read the settings file none.toml"),
        (["train", "--resume"], "There is no run of gpt with a checkpoint under runs/"),
        (["train", "--resume", "--out", "none"], "none holds no run to resume"),
        (["train", "--resume", "--config", "x.toml"], "Leave out --config"),
        (["train", "--data", "none.txt"], "There is no file or folder none.txt"),
        (["train", "--warmup", "400"], "warmup is 400 steps, but the run has 300"),
        (["train", "--device", "warp"], "Device 'warp' cannot be used here"),
    ],
)
def test_wrong_usage_is_told_and_leaves_nothing(args, message, capsys, tmp_path):
    assert main(args) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_another_broken_pipe_is_told(monkeypatch):
    def break_(path):
        raise BrokenPipeError

    monkeypatch.setattr("trimtab.findings.Selection.from_pyproject", break_)
    with pytest.raises(BrokenPipeError):
        main(["explain", "--all"])
