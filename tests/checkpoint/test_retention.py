import errno
import os

import pytest

from trimtab.checkpoint import list_checkpoints, mark_checkpoint, save_checkpoint
from trimtab.checkpoint._retention import by_step, drop_outdated, is_healthy, step_of


def save(folder, step, healthy=True, keep=2):
    return save_checkpoint(folder, step, model={}, state={}, keep=keep, healthy=healthy)


def kept(folder):
    return [step_of(p) for p in list_checkpoints(folder)]


@pytest.mark.parametrize(
    ("saves", "left"),
    [
        ("1 2 3", [2, 3]),
        ("1 2 3! 4! 5!", [1, 2, 5]),
        ("1 2! 3", [1, 3]),
        ("1! 2! 3!", [3]),
        ("1! 2", [2]),
        ("10 20 30! 15", [10, 15]),  # rolled back to before 20
        ("10 20 15!", [10, 15, 20]),
        ("10 20 30! 30", [20, 30]),
        ("99999999 100000000 100000001", [100000000, 100000001]),
    ],
)
def test_healthy_ones_stay(tmp_path, saves, left):
    for each in saves.split():
        save(tmp_path, int(each.rstrip("!")), healthy=not each.endswith("!"))
    assert kept(tmp_path) == left


def test_one_that_proved_unhealthy_later_goes_first(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    mark_checkpoint(save(tmp_path, 3, keep=3), healthy=False)
    save(tmp_path, 4)
    assert kept(tmp_path) == [2, 4]


def test_one_that_cannot_be_read_stays_until_it_is_the_oldest(tmp_path):
    """It may be of a later version."""
    path = save(tmp_path, 1)
    (path / "manifest.json").write_text("{}")
    assert is_healthy(path) is None
    save(tmp_path, 2)
    assert kept(tmp_path) == [1, 2]
    save(tmp_path, 3)
    assert kept(tmp_path) == [2, 3]


def test_what_is_named_otherwise_is_never_touched(tmp_path):
    save(tmp_path, 1).rename(tmp_path / "step-00000001-best")
    for step in (2, 3, 4):
        save(tmp_path, step, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001-best", "step-00000004"]


def test_what_is_named_like_a_checkpoint_but_is_a_file_is_none(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000002").write_text("")
    (tmp_path / "3").mkdir()
    assert by_step(tmp_path) == [tmp_path / "step-00000001"]
    assert by_step(tmp_path / "none") == by_step(tmp_path / "step-00000002") == []


def test_where_another_process_has_removed_the_new_one_the_others_stay(tmp_path):
    """As when two runs save into one folder, and each takes the other's for outdated."""
    save(tmp_path, 1)
    drop_outdated(tmp_path, tmp_path / "step-00000002", keep=1)
    assert kept(tmp_path) == [1]


def test_two_processes_do_not_remove_at_the_same_time(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    save(tmp_path, 1)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # the other one
    save(tmp_path, 2, keep=1)
    assert kept(tmp_path) == [1, 2]
    os.close(handle)
    save(tmp_path, 3, keep=1)
    assert kept(tmp_path) == [3]


def test_where_there_are_no_locks_it_removes_all_the_same(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for step in (1, 2):
        save(tmp_path, step, keep=1)
    assert kept(tmp_path) == [2]
