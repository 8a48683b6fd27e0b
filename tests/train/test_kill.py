"""A real process is killed at moments that nobody chose, and goes on as if nothing had been."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_if_it_had_not_been():
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "3", "--no-save"]

    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert (told["kills"], told["survived"], told["failures"]) == (3, 3, [])
    assert told["equal_runs"] == told["runs"] >= 1
