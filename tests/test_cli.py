import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import webbrowser

import numpy as np
import pytest

from trimtab import __version__
from trimtab.cli import load_rules, main
from trimtab.findings import Finding, index_page, page, registered
from trimtab.signals import RunWriter

TINY = ["stablenet", "--steps", "6", "--depth", "2", "--width", "16", "--save-every", "2"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_and_version(capsys):
    assert main([]) == main(["--help"]) == main(["-h"]) == 0
    assert "train [RECIPE]" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trimtab {__version__}\n"


@pytest.mark.parametrize("recipe", ["gpt", "stablenet"])
def test_every_option_is_explained_with_its_default(recipe, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", recipe, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in ("steps", "seed", "out", "json", "resume", "config", "lr", "clip"):
        assert f"--{name}" in text
    assert "--data" in text if recipe == "gpt" else "--depth" in text
    assert "Peak learning rate" in text
    assert "(default: 0.1)" in text


def test_a_run_prints_its_summary_as_the_last_line(capsys):
    assert main(["train", *TINY, "--json", "--out", "run"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["recipe"], summary["steps"], summary["out"]) == ("stablenet", 6, "run")
    assert 0 <= summary["test_accuracy"] <= 1


def test_without_json_the_summary_is_for_people(capsys):
    assert main(["train", *TINY]) == 0
    out = capsys.readouterr().out
    assert "test_accuracy" in out
    assert "runs/stablenet-" in out


def test_print_config_is_a_config(capsys, tmp_path):
    assert main(["train", *TINY, "--lr", "0.5", "--print-config"]) == 0
    text = capsys.readouterr().out
    settings = tomllib.loads(text)
    assert settings["recipe"] == "stablenet"
    assert settings["optimizer"]["lr"] == 0.5
    (tmp_path / "run.toml").write_text(text)
    assert main(["train", "--config", "run.toml", "--print-config"]) == 0
    assert capsys.readouterr().out == text
    assert list(tmp_path.iterdir()) == [tmp_path / "run.toml"]


def test_flags_go_over_the_file(capsys, tmp_path):
    (tmp_path / "run.toml").write_text("[optimizer]\nlr = 0.5\nclip = 2\n")
    main(["train", "stablenet", "--config", "run.toml", "--lr", "0.25", "--print-config"])
    settings = tomllib.loads(capsys.readouterr().out)["optimizer"]
    assert (settings["lr"], settings["clip"]) == (0.25, 2.0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "There is no command 'trian'. Did you mean 'train'? Known are: train"),
        (["exlpain"], "There is no command 'exlpain'. Did you mean 'explain'?"),
        (["zzz"], "There is no command 'zzz'. Known are: train, watch, report, check, diagnose"),
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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--step", "3"], "--steps"),
        (["--steps", "-3"], "steps must be at least 1, got -3"),
        (["--lr", "nan"], "lr must be positive and finite, got nan"),
        (["--lr", "fast"], "fast"),
        (["--clip", "-1"], "clip must be 0 or more"),
        (["--heads", "3"], "dim 256 cannot be divided among 3 heads"),
        (["--precision", "fp8"], "fp16"),
        (["stablenet"], "stablenet"),
    ],
)
def test_wrong_options_name_what_is_right(args, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["train", "gpt", *args])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04\0\0", b"short"])
def test_data_that_is_no_text(content, capsys, tmp_path):
    (tmp_path / "data").write_bytes(content)
    assert main(["train", "--data", "data"]) == 2
    assert "data" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_an_unknown_key_in_the_file_is_refused(capsys, tmp_path):
    (tmp_path / "run.toml").write_text("[optimizer]\nlearning_rate = 1\n")
    assert main(["train", "--config", "run.toml"]) == 2
    assert "run.toml [optimizer] has an unknown key 'learning_rate'" in capsys.readouterr().err


def test_a_run_is_not_overwritten_and_not_resumed_as_another(capsys):
    assert main(["train", *TINY, "--out", "run"]) == 0
    assert main(["train", *TINY, "--out", "run"]) == 2
    assert "nothing is ever overwritten. Pass --resume" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "run", "--lr", "0.7"]) == 2
    assert "has lr = 0.002; with 0.7 it would" in capsys.readouterr().err
    assert main(["train", "gpt", "--resume", "--out", "run"]) == 2
    assert "is for the recipe 'stablenet', not 'gpt'" in capsys.readouterr().err


def test_resuming_a_finished_run_shows_it_again(capsys):
    assert main(["train", *TINY, "--out", "run", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["train", "--resume", "--out", "run", "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_goes_on(number, tmp_path):
    command = [sys.executable, "-m", "trimtab.cli", "train", "stablenet", "--depth", "4"]
    command += ["--steps", "2000", "--out", "run", "--eval-every", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.time() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 20):
        assert time.time() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "trimtab train --resume --out run" in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stopped"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / f"step-{summary['steps']:08d}").is_dir()

    steps = metrics.read_text().count("\n") - 1
    assert steps == summary["steps"]
    resumed = subprocess.run(
        [sys.executable, "-m", "trimtab.cli", "train", "--resume", "--out", "run", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert f"going on at step {steps}" in resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1])["steps"] == 2000


def record(folder):
    """Write a run of three steps."""
    writer = RunWriter(folder, info={"name": "tiny"})
    for step in range(3):
        writer.append("steps", step, {"loss": np.array([3.0 - step])})
    writer.close()


def test_report_of_the_newest_run(capsys, tmp_path):
    record(tmp_path / "runs" / "one")
    assert main(["report"]) == 0
    assert capsys.readouterr().out == "runs/one/report.html\n"
    assert "tiny" in (tmp_path / "runs" / "one" / "report.html").read_text(encoding="utf-8")


def test_report_of_two_runs_into_a_file_that_is_opened(capsys, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    for name in ("a", "b"):
        record(tmp_path / name)
    assert main(["report", "a", "b", "--out", "both.html", "--open"]) == 0
    assert capsys.readouterr().out == "both.html\n"
    assert opened == [(tmp_path / "both.html").as_uri()]


def test_watch_once(capsys, tmp_path):
    record(tmp_path / "runs" / "one")
    assert main(["watch", "--once"]) == 0
    newest = capsys.readouterr().out
    assert newest.startswith("tiny  ended, healthy\n")
    assert main(["watch", "runs/one", "--once"]) == 0
    assert capsys.readouterr().out == newest


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["report"], "There is no run under runs/."),
        (["watch"], "There is no run under runs/."),
        (["report", "nowhere"], "nowhere"),
        (["watch", "nowhere", "--once"], "nowhere"),
        (["report", "a", "b", "c"], "one run or two, got 3"),
    ],
)
def test_a_run_that_cannot_be_shown(args, message, capsys, tmp_path):
    assert main(args) == 2
    told = capsys.readouterr().err
    assert told.startswith("trimtab: ")
    assert message in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_explain_a_rule(capsys):
    assert main(["explain", "loss-spike"]) == 0
    by_name = capsys.readouterr().out
    assert by_name.startswith("TT301 loss-spike\n\n")
    assert "Why it matters\n" in by_name
    assert main(["explain", "tt301", "TT302"]) == 0
    both = capsys.readouterr().out
    assert both.startswith(f"{by_name}\nTT302 ")


def test_explain_all(capsys):
    assert main(["explain", "--all"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    own = [code for code, rule in registered().items() if rule.__module__.startswith("trimtab.")]
    assert set(own) <= set(listed)
    assert {"TT0", "TT3", "TT7"} <= {code[:3] for code in own}


def test_explain_for_programs(capsys):
    load_rules()
    assert main(["explain", "TT301", "--format", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["code"], told["name"], told["scope"]) == ("TT301", "loss-spike", "run")
    assert main(["explain", "TT301", "--format", "markdown"]) == 0
    assert capsys.readouterr().out == page(registered()["TT301"])
    assert main(["explain", "--all", "--format", "markdown"]) == 0
    assert capsys.readouterr().out == index_page()
    assert main(["explain", "--all", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(registered())


@pytest.mark.parametrize("args", [[], ["TT301", "--all"]])
def test_explain_wants_rules_or_all(args, capsys):
    with pytest.raises(SystemExit) as end:
        main(["explain", *args])
    assert end.value.code == 2
    assert "name rules by code or name, or list them with --all" in capsys.readouterr().err


def test_explain_helps_with_settings_that_are_wrong(capsys, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.trimtab]\nignore = ['TT999']\n")
    assert main(["explain", "--all"]) == 0
    captured = capsys.readouterr()
    assert "TT301  loss-spike" in captured.out
    assert captured.err.startswith("warning: ")
    assert "pyproject.toml: [tool.trimtab] ignore has 'TT999'" in captured.err


@pytest.mark.parametrize("command", ["check", "diagnose", "explain"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: trimtab {command} ")


LOOP = """\
import torch
from torch import nn

model = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss_fn = nn.CrossEntropyLoss()


def train(loader):
    for x, y in loader:
        {clear}loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
"""
FAULTY = LOOP.format(clear="")
SOUND = LOOP.format(clear="optimizer.zero_grad()\n        ")


@pytest.fixture
def faulty(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(FAULTY, encoding="utf-8")
    return path


def test_check_finds_a_fault(faulty, capsys):
    assert main(["check", "train.py"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("TT704 missing-zero-grad at train.py:")
    assert out.endswith(("\n1 finding: 1 error.\n", "\n1 finding: 1 warning.\n"))
    assert main(["check"]) == 1
    assert main(["check", "train.py", "--exit-zero"]) == 0


def test_check_is_silent_on_sound_code(faulty, capsys):
    faulty.write_text(SOUND, encoding="utf-8")
    assert main(["check", "train.py"]) == 0
    assert capsys.readouterr().out == "No findings.\n"


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--select", "TT704,TT701"], True),
        (["--select", "missing-zero-grad"], True),
        (["--select", "TT701"], False),
        (["--ignore", "TT704"], False),
        (["--ignore", "TT701", "--ignore", "missing-zero-grad"], False),
    ],
)
def test_check_selects(faulty, args, found, capsys):
    assert main(["check", "train.py", *args]) == (1 if found else 0)


def test_check_reads_the_projects_settings(faulty, capsys, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.trimtab]\nignore = ['TT704']\n")
    assert main(["check", "train.py"]) == 0
    assert main(["check", "train.py", "--select", "TT704"]) == 1
    (tmp_path / "pyproject.toml").write_text("[tool.trimtab]\nignores = ['TT704']\n")
    assert main(["check", "train.py"]) == 2
    assert "has an unknown key 'ignores'. Did you mean 'ignore'?" in capsys.readouterr().err


def test_check_for_programs(faulty, capsys):
    assert main(["check", "train.py", "--format", "json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["code"], found["file"]) == ("TT704", "train.py")
    assert Finding.from_dict(found).to_dict() == found
    assert main(["check", "train.py", "--format", "sarif"]) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert [r["ruleId"] for r in run["results"]] == ["TT704"]
    assert {r["id"][:3] for r in run["tool"]["driver"]["rules"]} == {"TT7"}


def test_check_shows_and_makes_repairs(faulty, capsys):
    assert main(["check", "train.py", "--diff"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("--- train.py\n+++ ")
    assert "+        optimizer.zero_grad()\n" in shown.out
    assert shown.err == "Would repair train.py.\nLeft without a repair: No findings.\n"
    assert faulty.read_text(encoding="utf-8") == FAULTY
    assert main(["check", "train.py", "--diff", "--exit-zero"]) == 0
    assert main(["check", "--fix", "train.py"]) == 0
    assert capsys.readouterr().err.endswith("\nRepaired train.py.\n")
    assert faulty.read_text(encoding="utf-8").count("optimizer.zero_grad()") == 1
    assert main(["check", "train.py"]) == 0
    assert main(["check", "train.py", "--diff"]) == 0


def test_a_patch_is_text(faulty, capsys):
    with pytest.raises(SystemExit) as end:
        main(["check", "--diff", "--format", "json"])
    assert end.value.code == 2
    assert "--diff prints a patch; leave --format out" in capsys.readouterr().err


def test_check_says_what_it_could_not_read(faulty, capsys, tmp_path):
    faulty.write_text(SOUND, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import torch\ndef f(:\n", encoding="utf-8")
    assert main(["check"]) == 0
    assert capsys.readouterr().err.startswith("warning: broken.py")
    assert main(["check", "broken.py"]) == 2


def test_check_says_that_there_was_nothing(capsys, tmp_path):
    assert main(["check"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "warning: There is no Python file or notebook to check.\n"
    assert captured.out == "No findings.\n"


def record_losses(folder, losses):
    writer = RunWriter(folder, info={"name": "tiny"})
    for step, loss in enumerate(losses, start=1):
        values = {"loss": loss, "gradient.norm": 0.5, "learning_rate": 0.1, "step.skipped": 0.0}
        writer.append("steps", step, {k: np.array([v]) for k, v in values.items()})
    writer.close()


def test_diagnose_a_run(capsys, tmp_path):
    rng = np.random.default_rng(0)
    calm = 1 + 2 * 0.97 ** np.arange(200) + 0.02 * rng.standard_normal(200)
    record_losses(tmp_path / "runs" / "calm", calm)
    wild = calm * np.where(np.arange(200) < 100, 1, 1.5 ** (np.arange(200) - 100.0))
    record_losses(tmp_path / "wild", wild)

    assert main(["diagnose"]) == 0
    assert capsys.readouterr().out == "No findings.\n"
    assert main(["diagnose", "wild"]) == 1
    assert "TT302 divergence" in capsys.readouterr().out
    assert main(["diagnose", "wild", "--format", "json"]) == 1
    assert "TT302" in capsys.readouterr().out
    assert main(["diagnose", "wild", "--format", "sarif", "--select", "TT302"]) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert [r["ruleId"] for r in run["results"]] == ["TT302"]
    assert main(["diagnose", "wild", "--ignore", "TT3"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("args", [["explain", "--all"], ["--help"]])
def test_nobody_reads_the_output(args, tmp_path):
    near, far = os.pipe()
    os.close(near)
    command = [sys.executable, "-m", "trimtab.cli", *args]
    done = subprocess.run(command, stdout=far, stderr=subprocess.PIPE, text=True, check=False)
    os.close(far)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_told(monkeypatch):
    def break_(path):
        raise BrokenPipeError

    monkeypatch.setattr("trimtab.findings.Selection.from_pyproject", break_)
    with pytest.raises(BrokenPipeError):
        main(["explain", "--all"])
