"""A place for what a run shows."""

import io

import pytest
from rich.console import Console


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)
