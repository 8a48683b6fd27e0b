import errno
import os
import subprocess
import sys
import threading

import pytest
import torch

from trimtab import ConfigError, StateError
from trimtab.checkpoint import (
    AsyncCheckpointer,
    list_checkpoints,
    load_checkpoint,
    load_latest,
)


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk that takes nothing until the event is set."""
    gate = threading.Event()
    fsync = os.fsync

    def wait(handle):
        assert gate.wait(20)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", wait)
    yield gate
    gate.set()


def make(value=1.0):
    tied = torch.full((3,), value)
    model = {"weight": tied, "tied": tied, "view": torch.arange(6.0).view(2, 3).T}
    return model, {"step": 5, "moments": [tied.clone()], "bytes": b"x"}


def test_training_may_go_on_changing_what_is_being_saved(tmp_path, slow_disk):
    with AsyncCheckpointer() as checkpointer:
        model, state = make()
        path = checkpointer.save(tmp_path, 5, model=model, state=state)
        model["weight"].zero_()
        state["moments"][0].zero_()
        state["step"] = 6
        assert list_checkpoints(tmp_path) == []
        slow_disk.set()
        checkpointer.wait()
        step, model, state = load_checkpoint(path)
    assert (step, state["step"], state["bytes"]) == (5, 5, b"x")
    assert model["weight"].tolist() == model["tied"].tolist() == [1, 1, 1]
    assert model["view"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert state["moments"][0].tolist() == [1, 1, 1]


def test_a_second_save_waits_for_the_first(tmp_path, slow_disk):
    with AsyncCheckpointer() as checkpointer:
        checkpointer.save(tmp_path, 1, model=make(1.0)[0], state={})
        threading.Timer(0.2, slow_disk.set).start()
        checkpointer.save(tmp_path, 2, model=make(2.0)[0], state={})
        assert slow_disk.is_set()
        assert load_latest(tmp_path)[1]["weight"].tolist() == [1, 1, 1]
        checkpointer.wait()
        assert load_latest(tmp_path)[1]["weight"].tolist() == [2, 2, 2]


def test_the_copies_memory_is_used_again(tmp_path):
    with AsyncCheckpointer() as checkpointer:
        places = []
        for step in (1, 2):
            checkpointer.save(tmp_path, step, model=make(step)[0], state={})
            places.append({n: t.data_ptr() for n, t in checkpointer._model._kept.items()})
        assert places[0] == places[1]
        checkpointer.save(tmp_path, 3, model={"weight": torch.ones(4)}, state={})
        assert {n: tuple(t.shape) for n, t in checkpointer._model._kept.items()} == {"weight": (4,)}


def test_a_failure_is_raised_by_the_next_save_and_the_one_after_works(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with AsyncCheckpointer() as checkpointer:
        checkpointer.save(tmp_path, 1, model=make()[0], state={})
        checkpointer.wait()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            checkpointer.save(tmp_path, 2, model=make()[0], state={}, keep=1)
            with pytest.raises(OSError, match="No space left"):
                checkpointer.save(tmp_path, 3, model=make()[0], state={})
        assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
        checkpointer.save(tmp_path, 3, model=make()[0], state={}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


def test_close_raises_what_went_wrong_once(tmp_path):
    (tmp_path / "file").write_text("")
    checkpointer = AsyncCheckpointer()
    checkpointer.save(tmp_path / "file", 1, model={}, state={})
    with pytest.raises(OSError, match="choose another folder"):
        checkpointer.close()
    checkpointer.close()


def test_state_that_cannot_be_saved_is_refused_at_once(tmp_path):
    with AsyncCheckpointer() as checkpointer:
        with pytest.raises(ConfigError, match="State at x is a object"):
            checkpointer.save(tmp_path, 1, model={}, state={"x": object()})
        with pytest.raises(ConfigError, match="keep"):
            checkpointer.save(tmp_path, 1, model={}, state={}, keep=0)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_one_saves_nothing(tmp_path):
    checkpointer = AsyncCheckpointer()
    checkpointer.close()
    with pytest.raises(StateError, match="was closed"):
        checkpointer.save(tmp_path, 1, model={}, state={})


SCRIPT = """
import sys, time
from pathlib import Path
import torch
from trimtab.checkpoint import AsyncCheckpointer, _atomic

write = _atomic.write_synced
_atomic.write_synced = lambda *args: (time.sleep(0.2), write(*args))
checkpointer = AsyncCheckpointer()
checkpointer.save(Path(sys.argv[1]), 7, model={"weight": torch.ones(3)}, state={})
"""


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["good", "file"])
def test_the_interpreter_finishes_a_save_before_it_exits(tmp_path, folder):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / folder)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if folder == "good":
        assert load_latest(tmp_path / folder)[0] == 7
        assert ended.stderr == ""
    else:
        assert "choose another folder for checkpoints" in ended.stderr
