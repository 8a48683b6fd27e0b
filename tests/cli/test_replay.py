import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from trimtab import StabilityWarning
from trimtab.cli import main
from trimtab.guard import Change, SnapshotRing, read_bundle
from trimtab.recipes._stablenet import Digits

BAD = 12
"""The step whose batch is damaged."""

BUILD = """\
import torch
from trimtab.engine import TrainingSetup


def build(seed):
    print("building")
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainingSetup(model, optimizer, torch.nn.MSELoss(), batches=[])
"""

ATTACHED = """
import warnings
import trimtab
from pathlib import Path

warnings.simplefilter("ignore")
torch.random.manual_seed(0)
setup = build(0)
guard = trimtab.guard.Guard(out=Path("incidents"))
with trimtab.attach(setup.model, setup.optimizer, out=None, guard=guard, clip=None) as trim:
    for step in range(12):
        x = torch.randn(8, 4)
        y = x.sum(1, keepdim=True) * (float("nan") if step == 10 else 1)
        loss = trim.loss(lambda: setup.loss_fn(setup.model(x), y))
        loss.backward()
        setup.optimizer.step()
        setup.optimizer.zero_grad()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of the command that left out a damaged batch."""
    usual, folder = Digits.batch, tmp_path_factory.mktemp("trained")

    def batch(self, index, batch_size):
        x, y = usual(self, index, batch_size)
        return (x * float("nan"), y) if index == BAD - 1 else (x, y)

    settings = ["--steps", "14", "--depth", "2", "--width", "16", "--watch", "0", "--lr", "0.03"]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(Digits, "batch", batch)
        # How many more there are depends on how fast the machine is.
        patch.setattr(SnapshotRing, "due", lambda ring, *_: ring.num_taken == 0)
        warnings.simplefilter("ignore", StabilityWarning)
        assert main(["train", "stablenet", *settings, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """That folder, where the test is."""
    shutil.copytree(trained, "run")
    return Path("run")


@pytest.fixture
def incident(run):
    return run / "incidents" / f"step-{BAD:08d}"


def lines(text):
    """Return the rows of the table below the incident's line."""
    told, _, table = text.partition("\n\n")
    assert told.startswith(f"Incident at step {BAD}: ")
    return table.splitlines()[1:]


def replay_anew(*args):
    """Replay in a process of its own."""
    command = [sys.executable, "-m", "trimtab.cli", "replay", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_run_of_a_recipe_is_repeated_bit_for_bit_in_a_fresh_process(incident):
    done = replay_anew(incident, "--change", "lr=0.5", "--change", f"without={BAD}")
    assert (done.returncode, done.stderr) == (0, "")
    as_it_was, half, without = lines(done.stdout)
    assert as_it_was.startswith("as it was ")
    assert " happened again, bit for bit " in as_it_was
    assert half.startswith("learning rate × 0.5 ")
    assert half.split()[-3:-2] != as_it_was.split()[-3:-2]  # loss of healthy batches afterwards
    assert without.startswith(f"without the data of step {BAD} ")
    assert " did not happen " in without


def test_its_losses_are_those_of_the_run(run, incident, capsys):
    assert main(["replay", str(incident), "--change", "lr=0.5", "--format", "json"]) == 0
    as_it_was, half = json.loads(capsys.readouterr().out)
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        losses = {int(row["step"]): row["loss"] for row in csv.DictReader(file)}
    recorded = [losses[step] for step in as_it_was["steps"]]
    assert as_it_was["reproduced"] is True
    assert list(map(str, as_it_was["losses"])) == recorded
    assert as_it_was["steps"][-1] == BAD
    assert recorded[-1] == "nan"
    assert half["steps"] == as_it_was["steps"]
    assert half["losses"][0] == as_it_was["losses"][0]
    assert half["losses"][1] != as_it_was["losses"][1]


def test_changes_behind_one_option_are_made_together(incident, capsys):
    assert main(["replay", str(incident), "--change", "lr=0.5", "clip=0.1"]) == 0
    assert lines(capsys.readouterr().out)[1].startswith(
        "learning rate × 0.5, gradients clipped to 0.1 "
    )


def test_the_incident_may_come_last(incident, capsys):
    assert main(["replay", "--change", "lr=0.5", str(incident)]) == 0
    assert lines(capsys.readouterr().out)[1].startswith("learning rate × 0.5 ")


def test_the_threads_of_the_run_are_taken_and_put_back(incident, capsys, monkeypatch):
    seen = []
    usual = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (seen.append(n), usual(n)))
    before = torch.get_num_threads()
    main(["replay", str(incident)])
    assert seen == [read_bundle(incident).environment["threads"], before]
    assert torch.get_num_threads() == before


def test_what_cannot_be_reproduced_ends_with_1(incident, capsys, monkeypatch):
    usual = torch.nn.LayerNorm.forward
    monkeypatch.setattr(torch.nn.LayerNorm, "forward", lambda self, x: usual(self, x) * 1.001)
    assert main(["replay", str(incident)]) == 1
    assert ", not as recorded" in capsys.readouterr().out


def test_the_help_names_every_change(capsys):
    with pytest.raises(SystemExit) as end:
        main(["replay", "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: trimtab replay INCIDENT ")
    assert [f.name for f in fields(Change) if f"  {f.name}=" not in told] == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere holds no incident: it has no manifest.json."),
        (["run"], f"run holds 1 incident. Name it: run/incidents/step-{BAD:08d}."),
        (["run/incidents"], f"Name it: run/incidents/step-{BAD:08d}."),
        (
            ["run/incidents/step-00000013"],
            f"Did you mean run/incidents/step-{BAD:08d}?",
        ),
        (["INCIDENT", "--change", "lrr=0.5"], "There is no change 'lrr'. Known are: lr, lr_cap"),
        (["INCIDENT", "--change", "lr"], "NAME=VALUE, such as lr=0.5; got 'lr'."),
        (["INCIDENT", "--change", "lr=much"], "lr must be a factor, such as 0.5, got 'much'."),
        (["INCIDENT", "--change", "clip=-1"], "clip of a change must be finite and positive"),
        (["INCIDENT", "--build", "setups"], "'setups' does not name a function."),
        (["INCIDENT", "--build", "setups:build"], "There is no module 'setups' here"),
        (["INCIDENT", "--build", "os:getcwd", "--device", "cpu"], "With --build, the function"),
        (["INCIDENT", "--device", "warp"], "Device 'warp' cannot be used here"),
    ],
)
def test_wrong_usage_is_told(args, message, run, incident, capsys):
    assert main(["replay", *(str(incident) if a == "INCIDENT" else a for a in args)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("trimtab: ")
    assert message in told.err


@pytest.mark.parametrize("args", [[], ["--change", "lr=0.5"], ["--change", "run"]])
def test_an_incident_has_to_be_named(args, capsys):
    with pytest.raises(SystemExit) as end:
        main(["replay", *args])
    assert end.value.code == 2
    assert "name the folder of an incident" in capsys.readouterr().err


def test_several_incidents_are_counted(run, incident, capsys):
    shutil.copytree(incident, incident.with_name("step-00000014"))
    assert main(["replay", "run"]) == 2
    told = capsys.readouterr().err
    assert "run holds 2 incidents. Name one, such as the newest: run/incidents/step-" in told


def test_a_damaged_incident_is_refused(incident, capsys):
    file = incident / "batches.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert main(["replay", str(incident)]) == 1
    assert "is damaged: batches.safetensors does not match its checksum" in capsys.readouterr().err


@pytest.fixture
def attached(tmp_path, monkeypatch):
    """The incident of a loop of somebody's own, and its build function beside it."""
    Path("setups.py").write_text(BUILD, encoding="utf-8")
    with torch.random.fork_rng(), warnings.catch_warnings():
        exec(BUILD + ATTACHED, {"__name__": "attached"})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "incidents/step-00000011"
    sys.modules.pop("setups", None)


def test_a_loop_of_your_own_is_repeated(attached, capsys):
    capsys.readouterr()
    assert main(["replay", attached, "--build", "setups:build", "--change", "without=11"]) == 0
    told = capsys.readouterr()
    as_it_was, without = told.out.partition("\n\n")[2].splitlines()[1:]
    assert " happened again, bit for bit " in as_it_was
    assert " did not happen " in without
    assert told.err == "building\n"  # results alone go to standard output
    assert main(["replay", attached, "--build", "setups.py:build"]) == 0


def test_a_loop_of_your_own_needs_its_build_function(attached, capsys):
    assert main(["replay", attached]) == 2
    assert "Pass --build MODULE:FUNCTION, a function from a seed to" in capsys.readouterr().err


def test_ctrl_c_ends_it(incident, capsys, monkeypatch):
    def interrupted(*_, **__):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            torch.ones(8).sum()

    monkeypatch.setattr("trimtab.engine._rerun.Rerun.run", interrupted)
    assert main(["replay", str(incident)]) == 130
    assert capsys.readouterr().err == "trimtab: Interrupted.\n"
