"""What the engine tells the guard about a step."""

from typing import get_args

import pytest

from trimtab.guard import Outcome, Return


def test_an_outcome_is_of_the_newest_step_and_no_overflow_unless_it_says_so():
    outcome = Outcome(loss=1.0, norm=2.0, skipped=False, flagged=False)

    assert (outcome.number, outcome.overflow, outcome.tape, outcome.values) == (
        None,
        False,
        None,
        None,
    )


def test_its_numbers_cannot_be_mixed_up():
    with pytest.raises(TypeError, match="positional"):
        Outcome(1.0, 2.0, False, False)


def test_a_return_is_false_where_nothing_was_changed():
    assert [bool(word) for word in get_args(Return)] == [False, True, True]
