import os

import pytest

from trimtab.errors import ConfigError
from trimtab.report import newest_run


def make(path, mark, seconds):
    path.mkdir(parents=True)
    (path / mark).touch()
    for one in (path / mark, path):
        os.utime(one, (seconds, seconds))
    return path


def test_the_run_written_to_last_is_meant(tmp_path):
    make(tmp_path / "old", "metrics.csv", 1000)
    newest = make(tmp_path / "young", "signals", 3000)
    make(tmp_path / "middle", "metrics.csv", 2000)
    make(tmp_path / "no-run", "notes.txt", 9000)
    assert newest_run(tmp_path) == newest


def test_a_file_inside_counts_as_well(tmp_path):
    running = make(tmp_path / "running", "metrics.csv", 1000)
    make(tmp_path / "done", "metrics.csv", 2000)
    os.utime(running / "metrics.csv", (3000, 3000))
    assert newest_run(tmp_path) == running


def test_none_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no run under .*trimtab train"):
        newest_run(tmp_path)
