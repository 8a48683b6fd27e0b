import base64
import math

import numpy as np
import pytest

from trimtab.report._grids import (
    BROKEN,
    LARGEST,
    MISSING,
    ZERO,
    Grid,
    choose_scale,
    make_grid,
    pack_grid,
)
from trimtab.report._runs import Layers


def layers(signal, values, recorded=None):
    values = np.asarray(values, float)
    recorded = np.ones(values.shape, bool) if recorded is None else np.asarray(recorded)
    sites = tuple(f"layer{i}" for i in range(len(values)))
    steps = 10 * np.arange(values.shape[1])
    return Layers(sites=sites, steps=steps, values={signal: values}, recorded=recorded)


def plain(values):
    values = np.asarray(values, float)
    steps = np.arange(values.shape[1])
    return Grid(steps=steps, values=values, broken=np.zeros(values.shape, bool), width=1)


def unpacked(packed, scale):
    """Return the values as the page reads them."""
    read = {k: np.frombuffer(base64.b64decode(packed[k]), d) for k, d in
            (("lows", "<f4"), ("highs", "<f4"), ("codes", "<u2"))}  # fmt: skip
    codes = read["codes"].reshape(len(read["lows"]), -1).astype(float)
    span = (read["highs"] - read["lows"])[:, None]
    values = read["lows"][:, None] + codes / LARGEST * span
    values = np.exp(values) if scale == "log" else values
    return np.where(codes == ZERO, 0, np.where(codes > LARGEST, np.nan, values)), codes


@pytest.mark.parametrize(
    ("signal", "expected"),
    [("gradient.norm", [[2, 5]]), ("gradient.nonfinite_fraction", [[2, 5]]),
     ("activation.rms", [[1.5, 4]]), ("update.ratio", [[1.5, 4]])],
)  # fmt: skip
def test_columns_hold_the_largest_or_the_mean(signal, expected):
    grid = make_grid(layers(signal, [[1, 2, np.nan, 3, 5]]), signal, limit=2)
    assert grid.width == 3
    grid = make_grid(layers(signal, [[1, 2, 3, 5]]), signal, limit=2)
    np.testing.assert_array_equal(grid.values, expected)
    np.testing.assert_array_equal(grid.steps, [0, 20])


def test_one_broken_record_breaks_its_column():
    one = layers("gradient.norm", [[1, np.nan, 3, 4], [1, np.inf, 3, 4]])
    grid = make_grid(one, "gradient.norm", limit=2)
    np.testing.assert_array_equal(grid.broken, [[True, False], [True, False]])
    np.testing.assert_array_equal(grid.values, [[1, 4], [1, 4]])


def test_no_value_is_not_a_broken_one():
    recorded = [[True, False], [True, True]]
    one = layers("gradient.norm", [[1, np.nan], [np.nan, np.nan]], recorded)
    assert not make_grid(one, "gradient.norm").broken.any()
    one = layers("update.ratio", [[1, np.nan, np.inf]])
    assert not make_grid(one, "update.ratio").broken.any()


@pytest.mark.parametrize(
    ("signal", "values", "scale"),
    [
        ("gradient.norm", [[1e-3, 1, 100]], "log"),
        ("gradient.norm", [[0, 1e-3, 1]], "log"),
        ("activation.rms", [[1, 2, 3]], "linear"),
        ("activation.zero_fraction", [[1e-6, 0.5, 1]], "linear"),
        ("activation.mean", [[-1, 0, 100]], "linear"),
    ],
)
def test_scale(signal, values, scale):
    assert choose_scale(signal, [plain(values)])[0] == scale


def test_colours_leave_out_single_outliers():
    values = np.linspace(1, 2, 1000)
    values[7] = 1e9
    _, (low, high) = choose_scale("activation.rms", [plain(values[None])])
    assert (low, high) == pytest.approx((1, 2), abs=0.05)


@pytest.mark.parametrize(
    ("signal", "values", "colour"),
    [
        ("activation.dead_fraction", [[0, 0]], (0, 1)),
        ("activation.mean", [[-3, 3]], (-3, 3)),
        ("activation.mean", [[0, 0]], (-1, 1)),
    ],
)
def test_ends_of_the_colours(signal, values, colour):
    assert choose_scale(signal, [plain(values)])[1] == pytest.approx(colour, rel=0.03)


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_values_come_back_exactly_enough(scale):
    random = np.random.default_rng(0)
    values = np.exp(random.normal(0, 3, (6, 200))) * 10.0 ** np.arange(-9, 9, 3)[:, None]
    back, _ = unpacked(pack_grid(plain(values), np.arange(6), scale), scale)
    if scale == "log":
        np.testing.assert_allclose(back, values, rtol=5e-4)
    else:
        assert (np.abs(back - values) <= values.max(axis=1, keepdims=True) / 65_000).all()


def test_codes_of_what_is_no_value():
    grid = plain([[1.0, np.nan, 0.0, 10.0], [np.nan] * 4, [5.0] * 4])
    grid.broken[0, 3] = True
    back, codes = unpacked(pack_grid(grid, np.arange(3), "log"), "log")
    assert codes[0].tolist()[1:] == [MISSING, ZERO, BROKEN]
    assert (codes[1] == MISSING).all()
    np.testing.assert_allclose(back[2], 5, rtol=1e-6)


def test_a_site_of_the_other_run_has_an_empty_row():
    grid = plain([[1.0, 2.0]]).with_empty_row()
    _, codes = unpacked(pack_grid(grid, np.array([1, 0]), "linear"), "linear")
    assert (codes[0] == MISSING).all()
    assert codes[1].tolist() == [0, LARGEST]


def test_note_says_what_a_cell_is():
    wide = Grid(steps=np.arange(2), values=np.ones((1, 2)), broken=np.zeros((1, 2), bool), width=4)
    assert wide.note("gradient.norm") == "A cell is the largest of 4 records."
    assert wide.note("activation.rms") == "A cell is the mean of 4 records."
    assert plain(np.ones((1, 1234))).note("x") == "1,234 records; a cell is one of them."
    assert math.isfinite(wide.values.sum())
