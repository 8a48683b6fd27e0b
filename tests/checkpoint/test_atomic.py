import os
from pathlib import Path

import pytest

from trimtab.checkpoint import _atomic
from trimtab.checkpoint._atomic import new_folder, remove_folder, write_atomic, write_verified


def no_space(*_):
    raise OSError(28, "No space left on device")


def make(path, **files):
    with new_folder(path) as new:
        for name, text in files.items():
            (new / name).write_text(text)


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"one")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_is_read_back(tmp_path, monkeypatch):
    path = tmp_path / "file"
    size, digest = write_verified(path, b"a", memoryview(b"bc"))
    assert size == 3
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(_atomic, "write_synced", lambda path, _: path.write_bytes(b"abb"))
    with pytest.raises(OSError, match="read back differs from what was written; the disk or"):
        write_verified(path, b"abc")


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder"
    make(path, a="one")

    def fail():
        with new_folder(path) as new:
            (new / "a").write_text("two")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert (path / "a").read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "folder"
    for name in ("a", "b"):
        make(path, **{name: name})
    assert [p.name for p in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_one_comes_back_where_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    make(path, a="one")
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda p, to: no_space() if p.suffix == ".tmp" else rename(p, to)
    )
    with pytest.raises(OSError, match="No space left"):
        make(path, a="two")
    assert (path / "a").read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_removed_or_stays_whole(tmp_path, monkeypatch):
    stays, goes = tmp_path / "stays", tmp_path / "goes"
    for path in (stays, goes):
        make(path, a="one")
    remove_folder(goes)
    monkeypatch.setattr(Path, "rename", no_space)
    remove_folder(stays)
    assert [p.name for p in tmp_path.rglob("*")] == ["stays", "a"]


@pytest.mark.parametrize("is_there", [False, True])
def test_two_processes_that_write_one_folder_both_succeed(tmp_path, monkeypatch, is_there):
    """Another one takes the name in the moment before the rename."""
    path = tmp_path / "folder"
    if is_there:
        make(path, a="one")
    rename, done = Path.rename, []

    def beaten(source, target):
        if target == path and not done:
            done.append(source)
            path.mkdir()
            (path / "a").write_text("theirs")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", beaten)
    make(path, a="two")
    assert (path / "a").read_text() == "two"
    assert done
    assert list(tmp_path.iterdir()) == [path]


def test_one_pushed_aside_by_another_process_in_this_moment(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    make(path, a="one")
    rename = Path.rename

    def taken(source, target):
        if source == path:
            rename(path, tmp_path / "theirs")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", taken)
    make(path, a="two")
    assert (path / "a").read_text() == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "theirs"]
