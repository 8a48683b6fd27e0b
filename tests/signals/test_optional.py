import json

import pytest

from trimtab import ConfigError
from trimtab.signals._optional import require


def test_returns_the_module():
    assert require("json", "This") is json


def test_names_what_needs_it_and_the_way_out():
    with pytest.raises(ConfigError) as caught:
        require("no_such_package.part", "load_run()")

    assert str(caught.value) == (
        "load_run() needs no_such_package, which cannot be imported (No module named "
        "'no_such_package'). Install it with: pip install 'trimtab[watch]'"
    )
