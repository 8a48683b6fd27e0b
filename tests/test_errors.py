import pickle
import warnings

import pytest

import trimtab
from trimtab import errors

PARENTS = {
    "TrimtabError": [Exception],
    "ConfigError": [errors.TrimtabError, ValueError],
    "StateError": [errors.TrimtabError, RuntimeError],
    "DivergedError": [errors.TrimtabError, FloatingPointError],
    "StabilityWarning": [UserWarning],
}


@pytest.mark.parametrize("name", PARENTS)
def test_the_tree_is_the_one_drawn_at_the_head_of_the_file(name):
    cls = getattr(errors, name)
    assert list(cls.__bases__) == PARENTS[name]
    assert getattr(trimtab, name) is cls
    assert name in errors.__doc__


def test_nothing_else_is_raised():
    defined = {
        k for k, v in vars(errors).items() if getattr(v, "__module__", "") == errors.__name__
    }
    assert defined == set(PARENTS)


@pytest.mark.parametrize("name", PARENTS)
def test_survives_the_way_to_another_process(name):
    """A data loader's worker sends its error pickled."""
    error = getattr(errors, name)("lr must be positive, got -1. Pass 1e-3.")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert str(twin) == "lr must be positive, got -1. Pass 1e-3."


def test_stability_warnings_alone_can_be_made_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", trimtab.StabilityWarning)
        warnings.warn("something else", UserWarning, stacklevel=1)
        with pytest.raises(trimtab.StabilityWarning):
            warnings.warn("deep post-norm", trimtab.StabilityWarning, stacklevel=1)
