import threading

import pytest

from trimtab import StateError
from trimtab.checkpoint._background import Background


def test_work_is_done_elsewhere_and_waited_for():
    gate, seen = threading.Event(), []

    def work():
        assert gate.wait(20)
        seen.append(threading.current_thread())

    background = Background("Saver")
    background.begin(work)
    assert seen == []
    gate.set()
    background.get_ready()
    assert seen[0] is not threading.current_thread()
    background.close()


def test_what_went_wrong_is_raised_once():
    background = Background("Saver")
    for ask in (background.wait, background.get_ready, background.close):
        background.begin(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask()
        background.wait()


def test_a_closed_one_is_named():
    background = Background("Saver")
    background.close()
    background.close()
    with pytest.raises(StateError, match="This Saver was closed"):
        background.get_ready()


def test_one_that_is_dropped_finishes_first():
    seen = []
    background = Background("Saver")
    background.begin(lambda: seen.append(1))
    del background
    assert seen == [1]
