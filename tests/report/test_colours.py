import itertools

import pytest

from trimtab.report._colours import DIVERGING, SEQUENTIAL


def linear(colour):
    """Return linear-light red, green and blue."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def lightness(colour):
    """Return CIE L*, 0 to 100."""
    r, g, b = linear(colour)
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def as_seen_with_deuteranopia(colour):
    """Return the lightness that is left when red and green are seen as one.

    Source: Viénot et al. 1999, doi:10.1002/(SICI)1520-6378(199908)24:4<243.
    """
    r, g, b = linear(colour)
    mixed = 0.29275 * r + 0.70725 * g
    return mixed, -0.02234 * r + 0.02234 * g + b


def test_lightness_grows_evenly():
    values = [lightness(colour) for colour in SEQUENTIAL]
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert values[0] < 15
    assert values[-1] > 88
    assert min(steps) > 6
    assert max(steps) < 14


def test_every_step_is_seen_without_red_and_green():
    mixed = [as_seen_with_deuteranopia(colour)[0] for colour in SEQUENTIAL]
    assert all(b > 1.2 * a for a, b in itertools.pairwise(mixed))


def test_the_two_signs_are_equally_dark_and_differ_in_blue():
    half = len(DIVERGING) // 2
    for negative, positive in zip(DIVERGING[:half], DIVERGING[:half:-1], strict=True):
        assert lightness(negative) == pytest.approx(lightness(positive), abs=6)
        assert as_seen_with_deuteranopia(negative)[1] > as_seen_with_deuteranopia(positive)[1]
    assert lightness(DIVERGING[half]) == max(map(lightness, DIVERGING))
