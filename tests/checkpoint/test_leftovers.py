import os
import subprocess
import sys

import pytest

from trimtab.checkpoint._leftovers import (
    clear_leftovers,
    hidden_name,
    others_at_work,
    put_back,
    under_construction,
)


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_what_killed_processes_began_is_cleared(tmp_path, dead):
    for name in (f".step-00000002.{dead}.tmp", f".step-00000003.{dead}.old", "step-00000003"):
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["step-00000003"]


def test_what_a_living_process_works_on_stays(tmp_path):
    mine = hidden_name(tmp_path / "step-00000001", "tmp")
    other = tmp_path / f".step-00000001.{os.getppid()}.tmp"
    for path in (mine, other):
        path.mkdir()
    with under_construction(mine):
        clear_leftovers(tmp_path)
        assert set(tmp_path.iterdir()) == {mine, other}


def test_a_new_process_may_have_the_number_of_a_killed_one(tmp_path):
    mine = hidden_name(tmp_path / "step-00000001", "tmp")
    mine.mkdir()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_strange_names_stay(tmp_path):
    kept = sorted([".step-1.tmp.mine", ".steps.1.tmp", f".step-x.{2**80}.tmp", ".git"])
    for name in kept:
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == kept


@pytest.mark.parametrize("of_0_1", [True, False])
def test_a_checkpoint_that_was_pushed_aside_is_put_back(tmp_path, dead, of_0_1):
    old = tmp_path / (".step-00000003.old" if of_0_1 else f".step-00000003.{dead}.old")
    old.mkdir()
    (old / "a").write_text("one")
    put_back(tmp_path)
    assert (tmp_path / "step-00000003" / "a").read_text() == "one"
    assert names(tmp_path) == ["step-00000003"]


def test_one_that_is_being_replaced_right_now_is_left_alone(tmp_path):
    old = tmp_path / f".step-00000003.{os.getppid()}.old"
    old.mkdir()
    put_back(tmp_path)
    assert names(tmp_path) == [old.name]


def test_what_other_living_processes_build_is_told(tmp_path, dead):
    others = tmp_path / f".step-00000001.{os.getppid()}.tmp"
    for path in (others, hidden_name(tmp_path / "step-00000001", "tmp")):
        path.mkdir()
    (tmp_path / f".step-00000002.{dead}.tmp").mkdir()
    aside = tmp_path / f".step-00000002.{os.getppid()}.old"
    aside.mkdir()
    assert others_at_work(tmp_path, "tmp") == [(others, os.getppid())]
    assert others_at_work(tmp_path, "old") == [(aside, os.getppid())]
