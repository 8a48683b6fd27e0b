import math

import pytest

from trimtab.repair._pace import is_falling, is_lost


@pytest.mark.parametrize(
    ("gaps", "lost"),  # before, now, and the least ever
    [
        ((0.5, 0.49, 0.49), True),  # in 40 % of the time four times as much of a 50th is not enough
        ((0.5, 0.4, 0.4), False),
        ((0.99, 0.98, 0.98), False),  # a plateau may end at once
        ((0.5, 0.49, 0.2), False),  # it was near before: noise hides the pace
        ((5.0, 4.0, 4.0), True),  # far worse than no training
        ((50.0, 4.0, 4.0), False),  # worse, but on its way
        ((math.nan, 0.5, 0.5), False),
    ],
)
def test_only_what_cannot_arrive_any_more_is_lost(gaps, lost):
    assert is_lost(1.0, *gaps) == lost


def test_nothing_is_lost_where_the_way_is_not_known():
    assert not is_lost(math.nan, 0.5, 0.5, 0.5)
    assert not is_lost(math.inf, 0.5, 0.5, 0.5)
    assert not is_lost(-1.0, 0.5, 0.5, 0.5)


def test_a_run_is_falling_until_it_stops():
    assert is_falling([0.5, 0.4, 0.2])
    assert not is_falling([0.5, 0.2, 0.19])
    assert is_falling([0.2])  # it was not looked at on its way
