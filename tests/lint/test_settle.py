"""Conditions that known values settle."""

import ast

import pytest

from trimtab.lint._settle import settle


def settled(text, constants=None, objects=()):
    tree = settle(ast.parse(text), constants or {}, dict.fromkeys(objects, "Thing"))
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("test", "left"),
    [
        ("amp", "b"),
        ("not amp", "a"),
        ("amp is None", "b"),
        ("nothing is None", "a"),
        ("nothing is not None", "b"),
        ("thing is None", "b"),
        ("thing is not None", "a"),
        ("every > 1", "a"),
        ("every == 1", "b"),
        ("every != 4", "b"),
    ],
)
def test_the_branch_that_is_taken_stays(test, left):
    constants = {"amp": False, "every": 4, "nothing": None}

    assert settled(f"if {test}:\n    a\nelse:\n    b", constants, ["thing"]) == left
    assert settled(f"x = a if {test} else b", constants, ["thing"]) == f"x = {left}"


@pytest.mark.parametrize("test", ["thing", "unknown", "unknown is None", "name > 1", "every > k"])
def test_what_is_not_known_stays_open(test):
    text = f"if {test}:\n    a"

    assert settled(text, {"every": 4, "name": "x"}, ["thing"]) == text


def test_names_that_the_text_sets_itself_are_not_known():
    for text in ("amp = f()\nif amp:\n    a", "def f(amp):\n    if amp:\n        a"):
        assert settled(text, {"amp": False}) == text


def test_a_branch_that_is_gone_leaves_a_block_behind():
    assert settled("for x in y:\n    if amp:\n        a", {"amp": False}) == "for x in y:\n    pass"


def test_places_are_kept():
    tree = settle(ast.parse("if amp:\n    a\nelse:\n    b\nc"), {"amp": True}, {})

    assert [n.lineno for n in tree.body] == [2, 5]
