import numpy as np
import pytest

from trimtab.rules._loss_curve import is_interleaved, loss_curve, spread

NAN = float("nan")


def test_keeps_losses_that_are_known_and_finite(make_history):
    curve = loss_curve(make_history(5, {"loss": [3.0, NAN, 2.0, float("inf"), 1.0]}))

    assert (curve.steps.tolist(), curve.values.tolist()) == ([1, 3, 5], [3.0, 2.0, 1.0])


def test_the_start_is_no_single_loss(make_history):
    assert loss_curve(make_history(5, {"loss": [0.1, 2.0, 2.2, 9.0, 9.0]})).start == 2.0


def test_levels_end_at_the_newest_loss(make_history):
    steps, levels = loss_curve(make_history(7, {"loss": [9, 1, 2, 3, 4, 5, 60]})).levels(3)

    assert (steps.tolist(), levels.tolist()) == ([2, 5], [2.0, 5.0])


def test_spread_is_the_deviation_of_a_normal_distribution_whatever_its_outliers():
    values = np.random.default_rng(0).normal(5, 2, 10_000)
    values[:500] = 1e6

    assert spread(values) == pytest.approx(2, rel=0.1)
    assert spread(np.zeros(0)) == 0


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ({"g": [1.0, NAN] * 2, "d": [NAN, 1.0] * 2}, True),
        ({"g": 1.0, "d": 1.0}, False),
        ({"g": 1.0, "frozen": NAN}, False),
        ({}, False),
    ],
)
def test_knows_optimizers_that_take_turns(make_history, norms, expected):
    history = make_history(30, parameters={"weight.norm": norms} if norms else None)

    assert is_interleaved(history) is expected
