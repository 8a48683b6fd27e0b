import numpy as np
import pytest
from torch import nn

from trimtab.rules._updates import (
    gradient_share,
    row_medians,
    streak,
    values_at,
    weight_updates,
)

NAN, INF = float("nan"), float("inf")


def run(make_history, ratio=0.1, skipped=0.0, model=None):
    return make_history(
        30,
        {"step.skipped": skipped, "learning_rate": range(30)},
        parameters={
            "update.ratio": {"0.weight": ratio, "0.bias": 9.0, "1.weight": 0.3, "1.bias": 9.0}
        },
        model=model,
    )


def test_only_weights_are_judged(make_history):
    updates = weight_updates(
        run(make_history, model=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))), 2
    )

    assert updates.sites == ["0.weight", "1.weight"]
    assert updates.steps.tolist() == [20, 30]
    assert updates.learning_rates.tolist() == [19.0, 29.0]
    assert updates.typical.tolist() == [0.2, 0.2]


def test_all_are_judged_where_nothing_is_known_of_them(make_history):
    assert len(weight_updates(run(make_history), 2).sites) == 4


def test_skipped_steps_and_weights_of_zero_are_left_out(make_history):
    skipped = [0.0] * 9 + [1.0] + [0.0] * 20
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    updates = weight_updates(run(make_history, [INF, 5.0, NAN, 0.1], skipped, model), 9)

    assert updates.steps.tolist() == [1, 20, 30]
    assert updates.typical.tolist() == [0.3, 0.3, 0.2]


@pytest.mark.parametrize("seed", range(3))
def test_row_medians_are_those_of_numpy(seed):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((9, 5 + seed)) < 0.3, NAN, rng.normal(size=(9, 5 + seed)))
    values[0] = 1.0

    np.testing.assert_allclose(row_medians(values), np.nanmedian(values, axis=1))


def test_row_medians_of_nothing():
    assert np.isnan(row_medians(np.array([[NAN, INF], [NAN, NAN]]))).all()
    assert row_medians(np.zeros((3, 0))).shape == (3,)


def test_values_at_steps_that_are_there(make_history):
    series = make_history(3, {"loss": [5.0, 6.0, 7.0]}).series("loss")

    np.testing.assert_array_equal(values_at(series, np.array([3, 1, 4])), [7.0, 5.0, NAN])
    assert np.isnan(values_at(make_history(0).series("loss"), np.array([1]))).all()


def test_gradient_share_is_joint_gradient_norm_over_joint_weight_norm(make_history):
    given = {"gradient.norm": [4.0, 1.0, INF, 3.0], "weight.norm": [2.0, 2.0, 1.0, NAN]}

    assert gradient_share(make_history(4, given), 3) == 1.25
    assert np.isnan(gradient_share(make_history(4, {}), 3))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([True, False, True, True], 2), ([True, True], 2), ([True, False], 0), ([], 0)],
)
def test_streak(flags, expected):
    assert streak(np.array(flags, dtype=bool)) == expected
