"""The pages of the rules are those that `make rules` writes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "assets" / "rule_pages.py"


@pytest.mark.slow
def test_pages_are_up_to_date():
    command = [sys.executable, str(SCRIPT), "--check"]  # no rules of other tests are in there
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 0, f"out of date; run make rules:\n{done.stdout}{done.stderr}"
