import pytest

from trimtab.errors import ConfigError
from trimtab.nn._checks import check_choice, check_count, check_positive, check_probability


def test_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError) as error:
        check_choice("norm", "layers", ("rms", "layer"))

    assert str(error.value) == (
        "norm must be one of layer, rms; got 'layers'. Did you mean 'layer'?"
    )


def test_a_name_near_nothing_gets_no_suggestion():
    with pytest.raises(ConfigError, match=r"got None\.$"):
        check_choice("norm", None, ("rms", "layer"))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_counts_are_whole_and_positive(value):
    with pytest.raises(ConfigError, match="depth must be an integer of at least 1"):
        check_count("depth", value)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_probabilities_lie_in_the_unit_interval(value):
    with pytest.raises(ConfigError, match="dropout is a probability"):
        check_probability("dropout", value)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_positive_numbers_are_finite_and_positive(value):
    with pytest.raises(ConfigError, match="cap must be finite and positive"):
        check_positive("cap", value)


def test_legal_values_pass():
    check_choice("norm", "rms", ("rms", "layer"))
    check_count("depth", 1)
    check_probability("dropout", 0)
    check_probability("dropout", 1)
    check_positive("cap", 1e-3)
