import getpass
import json
import os
import platform
import subprocess

import torch

from trimtab.guard import _environment
from trimtab.guard._environment import compare_environments, describe_environment


def test_holds_what_numbers_depend_on(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    found = describe_environment()

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["threads"] == torch.get_num_threads()
    assert found["capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["deterministic"] is False
    assert found["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_holds_nothing_private(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_TOKEN", "s3cret-value")
    text = json.dumps(describe_environment())

    assert "s3cret-value" not in text
    assert platform.node() not in text
    assert str(tmp_path) not in text
    assert os.getcwd() not in text  # noqa: PTH109 # as it is in the process
    assert f'"{getpass.getuser()}"' not in text


def test_names_the_commit_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "commit" not in describe_environment()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)

    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()

    assert describe_environment()["commit"] == head


def test_without_git_there_is_no_commit(monkeypatch):
    def fail(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(_environment.subprocess, "run", fail)

    assert "commit" not in describe_environment()


def test_without_a_list_of_processors_the_machine_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(_environment, "Path", lambda _: tmp_path / "none")

    assert describe_environment()["processor"] in {platform.processor(), platform.machine()}


def test_says_what_differs():
    there = {"torch": "2.6.0", "threads": 8, "variables": {"MKL_CBWR": "AVX2"}}
    here = {"torch": "2.7.0", "threads": 8, "variables": {}, "safetensors": "1.0"}

    assert compare_environments(there, here) == [
        "torch 2.6.0 there, 2.7.0 here",
        "MKL_CBWR AVX2 there, not set here",
    ]


def test_an_environment_is_equal_to_itself():
    assert compare_environments(describe_environment(), describe_environment()) == []
