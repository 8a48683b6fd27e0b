import json
import math

import numpy as np
import pytest

from trimtab.signals._events import EventsFile, read_events


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def test_gives_back_what_was_added(path):
    events = EventsFile(path, max_bytes=None)
    events.add({"step": np.int64(3), "kind": "skipped", "norm": np.float32(np.inf)})
    assert read_events(path) == []
    events.flush()
    events.add({"step": 4, "kind": "é\n", "norm": math.nan})
    events.flush()

    first, second = read_events(path)
    assert first == {"step": 3, "kind": "skipped", "norm": math.inf}
    assert second["kind"] == "é\n"
    assert math.isnan(second["norm"])


def test_a_file_cut_anywhere_spoils_no_whole_line(path):
    events = EventsFile(path, max_bytes=None)
    for step in range(3):
        events.add({"step": step, "kind": "x"})
    events.flush()
    data = path.read_bytes()

    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        later = EventsFile(path, max_bytes=None)
        later.add({"step": 9, "kind": "y"})
        later.flush()

        whole = len(read_events(path)) - 1
        assert [e["step"] for e in read_events(path)] == [*range(whole), 9]
        assert whole >= data[:size].count(b"\n")


def test_no_file_has_no_events(path):
    assert read_events(path) == []


def test_stops_when_the_space_is_used_and_says_so_once(path):
    for _ in range(2):  # also in a later session
        events = EventsFile(path, max_bytes=500)
        for step in range(100):
            events.add({"step": step, "kind": "clipped"})
        events.flush()

    kinds = [event["kind"] for event in read_events(path)]
    assert kinds[-1] == "events_full"
    assert kinds.count("events_full") == 1
    assert path.stat().st_size < 500 + 100


def test_many_that_wait_should_be_written(path):
    events = EventsFile(path, max_bytes=None)
    for step in range(1000):
        assert not events.crowded
        events.add({"step": step, "kind": "clipped"})
    assert events.crowded
    events.flush()
    assert not events.crowded
    assert len(read_events(path)) == 1000 == len(path.read_text().splitlines())
    assert json.loads(path.read_text().splitlines()[-1])["step"] == 999
