import numpy as np
import pytest

from trimtab.rules import Table
from trimtab.rules._persistence import always, lasting

NAN = float("nan")


def table(steps):
    return Table(np.array(steps), ["a"], np.arange(len(steps), dtype=float)[:, None])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (range(2, 101, 2), range(60, 101, 2)),  # all of the last forty steps
        (range(10, 101, 10), range(60, 101, 10)),
        (range(30, 301, 30), [210, 240, 270, 300]),  # or the last four
        ([1, 10, 20, 30], [1, 10, 20, 30]),  # nearly forty steps
        ([1, 2, 3, 4], None),
        ([10, 100, 200], None),
        ([], None),
    ],
)
def test_lasting_records_reach_back_far_enough(steps, expected):
    recent = lasting(table(list(steps)), records=4, steps=40)

    assert (None if recent is None else recent.steps.tolist()) == (
        None if expected is None else list(expected)
    )


def test_always_looks_at_records_in_which_a_site_was_measured():
    values = np.array([[2.0, 2.0, NAN, NAN], [2.0, 0.0, 2.0, NAN], [2.0, 2.0, 2.0, NAN]])

    assert always(values > 1, values, records=2).tolist() == [True, False, True, False]
    assert always(values > 1, values, records=3).tolist() == [True, False, False, False]
