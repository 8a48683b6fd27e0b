import json

import numpy as np
import pytest

from trimtab.cli import load_rules, main
from trimtab.findings import Finding, index_page, page, registered
from trimtab.signals import RunWriter


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
    packages = {registered()[code].__module__.split(".")[1] for code in own}
    assert {"audit", "diagnosis", "guard", "lint", "preflight", "rules"} <= packages


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
