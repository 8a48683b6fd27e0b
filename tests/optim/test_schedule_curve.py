"""The factor as a function of the position: bounds, shapes, floor."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.optim._schedule_curve import FALLS, Curve

shapes = st.builds(
    dict,
    fall=st.sampled_from(sorted(FALLS)),
    start_ratio=st.floats(0, 1),
    min_ratio=st.floats(0, 1),
    power=st.floats(0.1, 5),
)


@st.composite
def curves(draw):
    total = draw(st.integers(1, 10**12))
    warmup = draw(st.integers(0, total))
    decay = draw(st.integers(0, total - warmup))
    shape = draw(shapes)
    return Curve(name="any", unit="tokens", total=total, warmup=warmup, decay=decay, **shape)


@given(curves(), st.data())
def test_a_curve_rises_stays_falls_and_stays(curve, data):
    position = data.draw(st.integers(0, 2 * curve.total))
    later = data.draw(st.integers(position, 2 * curve.total))
    first, second = curve.factor(position), curve.factor(later)

    assert 0 <= first <= 1
    if later < curve.warmup:
        assert curve.start_ratio <= first <= second
    if position >= curve.warmup:
        assert second <= first + 1e-15
        assert first >= curve.min_ratio
    if curve.warmup <= position < curve.total - curve.decay:
        assert first == 1
    if position >= curve.total:
        assert first == curve.min_ratio


@pytest.mark.parametrize(
    ("options", "position", "expected"),
    [
        ({"fall": "linear"}, 75, 0.25),
        ({"fall": "cosine"}, 75, 0.5 * (1 + math.cos(0.75 * math.pi))),
        ({"fall": "1-sqrt"}, 75, 1 - math.sqrt(0.75)),
        ({"fall": "linear", "power": 2.0}, 75, 0.0625),
        ({"fall": "linear", "min_ratio": 0.2}, 75, 0.4),
        ({"fall": "linear", "min_ratio": 0.2}, 101, 0.2),
    ],
)
def test_falls(options, position, expected):
    curve = Curve(name="any", unit="steps", warmup=0, total=100, decay=100, **options)

    assert curve.factor(position) == pytest.approx(expected, rel=1e-12)
