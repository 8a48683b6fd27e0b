import math

import pytest

from trimtab.report._numbers import duration, number, percent, title


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.5, "−0.5000"),
        (1.836, "1.836"),
        (12.3456, "12.35"),
        (99999.4, "99,999"),
        (1e-4, "1×10⁻⁴"),
        (1.25e-5, "1.25×10⁻⁵"),
        (3.2e12, "3.2×10¹²"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "NaN"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_number_of_few_digits():
    assert [number(v, 2) for v in (0.0298, 34.56, 345.6)] == ["0.030", "35", "346"]


@pytest.mark.parametrize(
    ("share", "text"), [(0.0009, "< 0.1 %"), (0.001, "0.1 %"), (0.5, "50.0 %")]
)
def test_percent(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.94, "59.9 s"), (119.7, "2 min 0 s"), (86_400, "1 d 0 h")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_title():
    assert title("gradient.nonfinite_fraction") == "Gradient non-finite fraction"
    assert title("adam.rms_ratio") == "Adam RMS ratio"
