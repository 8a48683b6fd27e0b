import pytest

from trimtab import ConfigError, Watch
from trimtab.signals import as_watch


def test_what_a_user_may_pass():
    assert as_watch(True) == Watch()
    assert as_watch(False) == Watch(parameters=0, modules=0, histograms=0, burst=0)
    assert as_watch(5) == Watch(parameters=5, modules=5, histograms=100)
    own = Watch(burst=3)
    assert as_watch(own) is own


def test_sites_are_chosen_by_name():
    assert Watch().keeps("blocks.0")
    assert Watch(include=r"^blocks").keeps("blocks.0")
    assert not Watch(include=r"^blocks").keeps("head")
    assert not Watch(include=r"^blocks", exclude=r"\.0$").keeps("blocks.0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": -1}, "parameters is a number of steps, 0 or more, got -1"),
        ({"modules": 1.5}, "modules is a number of steps"),
        ({"histograms": True}, "histograms is a number of steps"),
        ({"burst": None}, "burst is a number of steps"),
        ({"replicas": -1}, "replicas is a number of records, 0 or more, got -1"),
        ({"include": "("}, "include must be a regular expression"),
        ({"exclude": "["}, "exclude must be a regular expression"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ConfigError, match=message):
        Watch(**options)


@pytest.mark.parametrize("watch", ["all", None, 1.5])
def test_something_else(watch):
    with pytest.raises(ConfigError, match="watch must be True, False"):
        as_watch(watch)
