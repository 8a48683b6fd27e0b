import os

import pytest

from trimtab.checkpoint._atomic import new_folder, write_atomic


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"one")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder"
    with new_folder(path) as new:
        (new / "a").write_text("one")

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
        with new_folder(path) as new:
            (new / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["b"]
