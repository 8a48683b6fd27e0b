import json
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from trimtab.cli import main

TINY = ["stablenet", "--steps", "6", "--depth", "2", "--width", "16", "--save-every", "2"]


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
    assert main(["train", "--resume", "--out", "run", "--guard", "none"]) == 2
    assert "has guard = spike; with none it would" in capsys.readouterr().err
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
