import base64

import numpy as np
import pytest

from trimtab.report._series import pack, pack_curve, thin_curve, thin_share


def unpack(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_a_short_curve_stays_as_it_is():
    steps, values = np.arange(5), np.array([1.0, 2.0, np.inf, np.nan, 5.0])
    curve = thin_curve(steps, values, limit=5)
    assert curve.steps is steps
    np.testing.assert_array_equal(curve.mean, [1, 2, np.nan, np.nan, 5])
    assert curve.low is None


def test_points_hold_mean_and_range_of_their_steps():
    random = np.random.default_rng(0)
    values = random.normal(size=23)
    curve = thin_curve(np.arange(100, 123), values, limit=5)
    parts = [values[i : i + 5] for i in range(0, 23, 5)]
    np.testing.assert_array_equal(curve.steps, [104, 109, 114, 119, 122])
    np.testing.assert_allclose(curve.mean, [p.mean() for p in parts])
    np.testing.assert_array_equal(curve.low, [p.min() for p in parts])
    np.testing.assert_array_equal(curve.high, [p.max() for p in parts])


def test_a_point_without_finite_values_is_a_gap():
    values = np.array([1.0, np.nan, np.nan, np.inf, 3.0, 5.0])
    curve = thin_curve(np.arange(6), values, limit=3)
    np.testing.assert_array_equal(curve.mean, [1, np.nan, 4])
    np.testing.assert_array_equal(curve.high, [1, np.nan, 5])


def test_a_spike_is_never_thinned_away():
    values = np.ones(10_000)
    values[6789] = 1e6
    assert np.nanmax(thin_curve(np.arange(10_000), values).high) == 1e6


def test_shares_of_flags():
    flags = np.array([True, False, True, True, True])
    np.testing.assert_array_equal(thin_share(flags, limit=5), flags)
    np.testing.assert_array_equal(thin_share(flags, limit=3), [0.5, 1, 1])


def test_what_few_steps_have_keeps_its_own_steps():
    values = np.full(100, np.nan)
    values[[9, 19]] = 2.0, 1.0
    packed = pack_curve(np.arange(100), values)
    np.testing.assert_array_equal(unpack(packed["x"], "<i4"), [9, 19])
    np.testing.assert_array_equal(unpack(packed["y"], "<f4"), [2, 1])


def test_what_most_steps_have_stands_at_the_steps_of_the_run():
    packed = pack_curve(np.arange(3), np.array([1.0, np.nan, 3.0]))
    assert packed.keys() == {"y"}
    np.testing.assert_array_equal(unpack(packed["y"], "<f4"), [1, np.nan, 3])


def test_what_float32_cannot_hold_is_infinite():
    assert unpack(pack([1e300], "<f4"), "<f4") == pytest.approx(np.inf)


def test_steps_between_records_are_no_gap():
    values = np.array([1.0, np.nan, 3.0, 4.0, 5.0])

    assert "x" not in pack_curve(np.arange(5), values)
    packed = pack_curve(np.arange(5), values, at_records=True)

    assert np.frombuffer(base64.b64decode(packed["x"]), "<i4").tolist() == [0, 2, 3, 4]
