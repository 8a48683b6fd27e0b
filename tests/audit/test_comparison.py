import pytest

from trimtab.audit._comparison import Comparison, compare
from trimtab.audit._session import Session, StepSeen


def session(*steps, kept=None):
    made = Session(None)
    made.steps = [StepSeen(batch=s, loss=1.0, weights=s, draws=frozenset(s)) for s in steps]
    made.kept = kept
    return made


def runs(whole="abcd", first="ab", resumed="cd"):
    return Comparison(
        stop=len(first), whole=session(*whole), first=session(*first), resumed=session(*resumed)
    )


def test_equal_runs():
    same = runs()

    assert (same.unrepeated, same.differs_from, same.begins) == (None, None, 3)
    assert same.moves_data
    assert same.draws == {"c", "d"}


@pytest.mark.parametrize(
    ("parts", "unrepeated", "differs", "moves"),
    [
        ({"first": "ax"}, 2, None, True),
        ({"first": "xb"}, 1, None, True),
        ({"resumed": "cx"}, None, 4, False),
        ({"resumed": "ab"}, None, 3, False),
        ({"resumed": "c"}, None, 4, True),
        ({"resumed": "cde"}, None, 5, False),
    ],
)
def test_the_first_difference(parts, unrepeated, differs, moves):
    found = runs(**parts)

    assert (found.unrepeated, found.differs_from, found.moves_data) == (unrepeated, differs, moves)


def test_parts_are_compared_by_name():
    before, after = {"a": {"x": 1, "y": 2}, "b": {}}, {"a": {"x": 1, "y": 3}, "b": {}}

    assert [d.name for d in compare(before, after)["a"]] == ["y"]
    assert compare(before, after)["b"] == []
    assert compare(None, after) == compare(before, None) == {}


def test_values_are_counted():
    found = Comparison(
        stop=0,
        whole=session(kept={"a": {"x": 1, "y": 2}}),
        first=session(),
        resumed=session(kept={"a": {"x": 1, "y": 3}}),
    )

    assert (found.total("a"), found.total("b")) == (2, 0)
    assert [d.name for d in found.changed["a"]] == ["y"]
