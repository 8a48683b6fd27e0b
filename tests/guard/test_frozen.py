import functools

import torch

from trimtab.guard._frozen import Frozen, home_of, value_of
from trimtab.guard._reads import Read

COUNT = 1


def count():
    return COUNT


def test_home_is_found_through_wrappers():
    class Thing:
        def method(self):
            return 1

    here = globals()
    assert home_of(count) is here
    assert home_of(functools.partial(functools.partial(count))) is here
    assert home_of(Thing().method) is here
    assert home_of(len) == {}


def test_home_of_a_frozen_function_is_its_own():
    frozen = Frozen(count)
    assert home_of(frozen) is not globals()
    assert home_of(frozen)["COUNT"] == 1


def test_values_of_variables():
    x = 1

    def function(a, b=2, *, c=3):
        return a + b + c + x + COUNT + not_yet

    def value(kind, name):
        return value_of(function, Read(kind, name, None))

    assert value("cell", "x") == 1
    assert value("cell", "not_yet") is None
    assert value("global", "COUNT") == 1
    assert value("global", "missing") is None
    assert (value("local", "a"), value("local", "b"), value("local", "c")) == (None, 2, 3)
    not_yet = 5
    assert value("cell", "not_yet") == 5


def test_globals_that_are_not_named_are_not_held():
    frozen = Frozen(count)
    assert "torch" not in frozen.function.__globals__


def test_functions_of_other_modules_are_shared():
    other = torch.nn.functional.mse_loss
    frozen = Frozen(lambda: other)
    assert frozen() is other


def test_a_call_leaves_no_trace_in_short_lists():
    short, long, table = [1, 2], [torch.ones(1)] * 65, {}
    frozen = Frozen(lambda: (short.append(3), long.append(3), table.update(a=1), len(short)))
    short.append(9)
    for _ in range(2):
        assert frozen()[-1] == 3
    assert (short, table) == ([1, 2, 9], {})
    assert len(long) == 67


def test_a_list_that_holds_itself():
    loop = [1]
    loop.append(loop)
    frozen = Frozen(lambda: loop)
    assert frozen() is loop


def test_defaults_and_attributes_of_the_function_are_kept():
    def function(a, b=torch.ones(1), *, c="c"):  # noqa: B008 # as users do
        return a, b, c

    function.mark = "here"
    frozen = Frozen(function)
    assert frozen.function.mark == "here"
    assert frozen(1)[2] == "c"
    assert frozen(1)[1] is function.__defaults__[0]
