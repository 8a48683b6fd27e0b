import math

import pytest

from trimtab.errors import ConfigError
from trimtab.init._checks import check_choice, check_count, check_positive


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_positive(value):
    check_positive("gain", 1e-9)

    with pytest.raises(ConfigError, match=f"gain must be finite and positive, got {value}"):
        check_positive("gain", value)


@pytest.mark.parametrize("value", [0, True, 1.5])
def test_count(value):
    check_count("num_layers", 1)

    with pytest.raises(ConfigError, match=f"num_layers must be an integer.*got {value}"):
        check_count("num_layers", value)


def test_choice():
    check_choice("mode", "a", ("a", "b"))

    with pytest.raises(ConfigError, match="mode must be one of a, b; got 'c'"):
        check_choice("mode", "c", ("b", "a"))
