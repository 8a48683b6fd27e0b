from typing import Literal

import pytest

from trimtab.errors import ConfigError
from trimtab.findings._typed import typed


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, float, 3.0),
        (0.5, float, 0.5),
        (3, int, 3),
        (True, bool, True),
        ("a", str, "a"),
        (["a", "b"], tuple[str, ...], ("a", "b")),
        ([1], tuple, (1,)),
        ("mean", Literal["mean", "worst"], "mean"),
        (2, float | None, 2.0),
        ("a", int | str, "a"),
    ],
)
def test_fits(value, kind, expected):
    found = typed(value, kind, "x")

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("3", float, "x must be a number, got '3'."),
        (float("nan"), float, "x must be a number, got nan."),
        (True, float, "x must be a number, got True."),
        (True, int, "x must be a whole number, got True."),
        (0.5, int, "x must be a whole number, got 0.5."),
        (1, bool, "x must be true or false, got 1."),
        (1, str, "x must be a text, got 1."),
        ("ab", tuple[str, ...], "x must be a list, got 'ab'."),
        (["a", 1], tuple[str, ...], "x must be a list, got ['a', 1]."),
        ("best", Literal["mean", "worst"], "x must be 'mean' or 'worst', got 'best'."),
        ("2", float | None, "x must be a number or left out, got '2'."),
        ([], dict, "x must be dict, got []."),
    ],
)
def test_does_not_fit(value, kind, message):
    with pytest.raises(ConfigError) as raised:
        typed(value, kind, "x")

    assert str(raised.value) == message
