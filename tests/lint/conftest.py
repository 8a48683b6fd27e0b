"""Healthy programs, and a way to put faults into them."""

from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = {p.stem: p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("programs/*")}
"""Programs in different styles on which no rule speaks."""

Changed = tuple[str, list[tuple[str, str]]]


def make(wanted: str | Changed) -> str:
    """Return a program: a text as it is, or one of the healthy ones with parts replaced."""
    if isinstance(wanted, str):
        return wanted
    name, changes = wanted
    text = PROGRAMS[name]
    for old, new in changes:
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def program() -> Callable[[str | Changed], str]:
    return make


@pytest.fixture(params=sorted(PROGRAMS))
def healthy(request) -> str:
    return PROGRAMS[request.param]
