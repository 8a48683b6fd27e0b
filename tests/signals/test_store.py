import errno
import gc
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from trimtab import ConfigError, StateError
from trimtab.signals import RunWriter, load_run
from trimtab.signals import _rows as rows_module
from trimtab.signals import _segments as segments_module
from trimtab.signals._segments import folder_bytes, list_segments

SITES = ("a", "b", "c")


def values(step):
    return np.arange(3, dtype=np.float32) + 10 * step


def put(writer, step, table="parameters"):
    writer.append(table, step, {"x": values(step)}, SITES)


def make(run, **options):
    return RunWriter(run, info={}, **{"flush_s": 1e9, **options})


def steps_of(run, table="parameters"):
    steps = load_run(run).table(table)["step"].to_list()
    return steps if table == "steps" else steps[:: len(SITES)]


def abandon(writer):
    """Leave everything as a killed process would."""
    writer._finalizer.detach()


class TestRoundTrip:
    @pytest.mark.parametrize("closed", [False, True])
    def test_gives_back_what_was_written(self, tmp_path, closed):
        writer = RunWriter(tmp_path / "run", info={"model": "gpt", "size": np.int64(3)})
        for step in range(5):
            loss = {"loss": np.array([step / 3]), "gradient.norm": np.ones(1, np.float32)}
            writer.append("steps", step, loss)
            put(writer, step)
        writer.append(
            "histograms", 4, {"count": np.arange(6, dtype=np.float32).reshape(3, 2)}, SITES
        )
        writer.event(3, "skipped", reason="nan", norm=np.float32(np.inf))
        writer.close() if closed else writer.flush()

        run = load_run(tmp_path / "run")

        assert run.info == {"model": "gpt", "size": 3}
        assert run.events() == [{"step": 3, "kind": "skipped", "reason": "nan", "norm": math.inf}]
        assert run.table("steps").to_dict(as_series=False) == {
            "step": [0, 1, 2, 3, 4],
            "loss": [step / 3 for step in range(5)],
            "gradient.norm": [1.0] * 5,
        }
        assert run.table("parameters").to_dict(as_series=False) == {
            "step": [step for step in range(5) for _ in SITES],
            "site": list(SITES) * 5,
            "x": [float(v) for step in range(5) for v in values(step)],
        }
        assert run.table("histograms")["count"].to_list() == [[0, 1], [2, 3], [4, 5]]
        assert {s.compacted for s in list_segments(tmp_path / "run" / "signals")} == {closed}
        writer.close()

    def test_columns_and_sites_may_differ_between_records(self, tmp_path):
        writer = make(tmp_path)
        one = np.ones(1, np.float32)
        writer.append("modules", 0, {"x": one}, ["a"])
        writer.append("modules", 1, {"y": one, "x": one * np.nan}, ("b",))
        writer.append("modules", 2, {"y": one}, ["a"])
        writer.append("modules", 3, {"x": np.full(700_000, 2, np.float32)}, ["b"] * 700_000)
        writer.close()

        table = load_run(tmp_path).table("modules")[:4]

        assert table["site"].to_list() == ["a", "b", "a", "b"]
        assert table["x"].is_null().to_list() == [False, False, True, False]
        assert table["x"].is_nan().to_list() == [False, True, None, False]
        assert table["y"].to_list() == [None, 1, 1, None]

    def test_time_flushes(self, tmp_path):
        writer = make(tmp_path, flush_s=0.0)
        put(writer, 0)
        writer.event(0, "clipped")

        assert steps_of(tmp_path) == [0]
        assert load_run(tmp_path).events() == [{"step": 0, "kind": "clipped"}]
        abandon(writer)

    def test_size_flushes_and_memory_stays_bounded(self, tmp_path):
        writer = make(tmp_path)
        sites = tuple(f"site.{i}" for i in range(1000))
        columns = {f"x{i}": np.ones(1000, np.float32) for i in range(10)}
        for step in range(60):  # 2.6 MB
            writer.append("parameters", step, columns, sites)

        waiting = writer._log._tables["parameters"].rows

        assert sum(v.nbytes for v in waiting.values.values()) <= rows_module.BUFFER_BYTES
        assert load_run(tmp_path).last_step >= 39
        abandon(writer)

    def test_full_segments_become_parquet_in_the_background(self, tmp_path):
        writer = make(tmp_path, segment_bytes=20_000)
        for step in range(2000):
            put(writer, step)
        assert any(s.compacted for s in list_segments(tmp_path / "signals"))
        writer.close()

        assert all(s.compacted for s in list_segments(tmp_path / "signals"))
        assert steps_of(tmp_path) == list(range(2000))

    def test_numbers_that_mean_something_else_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"^max_bytes must be positive, got 0\. Leave it out"):
            make(tmp_path, max_bytes=0)
        with pytest.raises(ConfigError, match=r"^flush_s must be 0 or more seconds, got nan\."):
            make(tmp_path, flush_s=math.nan)

    @pytest.mark.parametrize("name", ["all", "../up", "a-b", ""])
    def test_a_table_must_be_a_word(self, tmp_path, name):
        writer = make(tmp_path)
        with pytest.raises(ConfigError, match="must be a word, and not 'all'"):
            put(writer, 0, table=name)

    def test_a_table_has_sites_or_none(self, tmp_path):
        writer = make(tmp_path)
        put(writer, 0)
        with pytest.raises(ConfigError, match="has records with sites and without"):
            writer.append("parameters", 1, {"x": np.ones(1, np.float32)})


class TestEnd:
    def test_close_can_be_repeated_and_nothing_follows_it(self, tmp_path):
        writer = make(tmp_path)
        put(writer, 0)
        writer.close()
        writer.close()

        with pytest.raises(StateError, match=r"^This writer is closed\. Make a new RunWriter"):
            put(writer, 1)
        assert steps_of(tmp_path) == [0]

    def test_a_dropped_writer_loses_nothing(self, tmp_path):
        writer = make(tmp_path)
        put(writer, 0)
        del writer
        gc.collect()

        assert steps_of(tmp_path) == [0]
        assert list_segments(tmp_path / "signals")[0].compacted

    @pytest.mark.slow
    @pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0"])
    def test_a_process_that_ends_loses_nothing(self, tmp_path, end):
        code = (
            "import sys, pathlib, numpy as np; from trimtab.signals import RunWriter\n"
            "w = RunWriter(pathlib.Path(sys.argv[1]), info={}, flush_s=1e9, segment_bytes=2000)\n"
            "for step in range(300): w.append('parameters', step, {'x': np.ones(3)}, 'abc')\n" + end
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        subprocess.run(command, check=False, capture_output=True, timeout=60)

        assert steps_of(tmp_path) == list(range(300))
        assert all(s.compacted for s in list_segments(tmp_path / "signals"))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_process_writes_nothing(self, tmp_path):
        writer = make(tmp_path)
        put(writer, 0)
        child = os.fork()
        if not child:
            put(writer, 1)
            writer.event(1, "x")
            writer.flush()
            writer.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert list_segments(tmp_path / "signals") == []

        put(writer, 2)
        writer.close()

        assert steps_of(tmp_path) == [0, 2]

    def test_a_call_from_a_signal_handler_in_a_call_is_left_out(self, tmp_path, monkeypatch):
        writer = make(tmp_path)
        put(writer, 0)
        write = os.write

        def interrupted(handle, data):
            writer.flush()
            writer.close()
            return write(handle, data)

        monkeypatch.setattr(os, "write", interrupted)
        writer.flush()
        monkeypatch.undo()
        put(writer, 1)
        writer.close()

        assert steps_of(tmp_path) == [0, 1]

    def test_an_interrupted_flush_can_be_repeated(self, tmp_path, monkeypatch):
        writer = make(tmp_path)
        put(writer, 0)
        writer.flush()
        put(writer, 1)

        def interrupted(handle, data):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
        monkeypatch.undo()
        put(writer, 2)
        writer.close()

        assert steps_of(tmp_path) == [0, 1, 2]

    def test_threads_may_share_a_writer(self, tmp_path):
        writer = make(tmp_path, flush_s=0.001, segment_bytes=20_000)

        def work(table):
            for step in range(300):
                put(writer, step, table)

        threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.close()

        for i in range(4):
            assert steps_of(tmp_path, f"t{i}") == list(range(300))


class TestResume:
    def test_a_later_session_supersedes_from_its_first_step_on(self, tmp_path):
        first = make(tmp_path)
        for step in range(10):
            put(first, step)
            put(first, step, "modules")
        first.event(3, "clipped")
        first.event(8, "skipped")
        first.flush()
        abandon(first)
        old = {s.path: s.path.read_bytes() for s in list_segments(tmp_path / "signals")}

        second = make(tmp_path)
        put(second, 6)
        second.event(6, "resumed")
        second.flush()

        assert {path: path.read_bytes() for path in old} == old
        run = load_run(tmp_path)
        assert steps_of(tmp_path) == [*range(6), 6]
        assert steps_of(tmp_path, "modules") == list(range(6))  # also where it wrote nothing yet
        assert run.events() == [
            {"step": 3, "kind": "clipped"},
            {"step": 8, "kind": "skipped", "superseded": True},
            {"step": 6, "kind": "resumed"},
        ]

        put(second, 7)
        second.close()
        assert steps_of(tmp_path) == list(range(8))

    def test_of_three_sessions_the_last_word_counts(self, tmp_path):
        for begin, end in ((0, 10), (5, 8), (7, 9)):
            writer = make(tmp_path)
            for step in range(begin, end):
                writer.append("steps", step, {"session": np.array([float(begin)])})
            writer.close()

        table = load_run(tmp_path).table("steps")

        assert table["step"].to_list() == list(range(9))
        assert table["session"].to_list() == [0.0] * 5 + [5.0] * 2 + [7.0] * 2

    def test_a_session_that_wrote_nothing_changes_nothing(self, tmp_path):
        writer = make(tmp_path)
        put(writer, 0)
        writer.close()
        make(tmp_path).close()

        assert steps_of(tmp_path) == [0]

    def test_going_back_in_one_process_supersedes_too(self, tmp_path):
        writer = make(tmp_path)
        for step in (0, 1, 2, 3, 1, 2):
            writer.append("steps", step, {"nth": np.array([float(step)])})
            put(writer, step)
        writer.close()

        assert steps_of(tmp_path) == [0, 1, 2]
        assert steps_of(tmp_path, "steps") == [0, 1, 2]

    def test_an_event_that_a_crash_cut_off_spoils_no_other(self, tmp_path):
        writer = make(tmp_path)
        writer.event(1, "one")
        writer.close()
        with (tmp_path / "signals" / "events.jsonl").open("a") as file:
            file.write('{"step": 2, "ki')
        writer = make(tmp_path)
        writer.event(3, "three")
        writer.close()

        assert [event["kind"] for event in load_run(tmp_path).events()] == ["one", "three"]

    def test_info_is_that_of_the_last_session(self, tmp_path):
        RunWriter(tmp_path, info={"n": 1}).close()
        RunWriter(tmp_path, info={"n": 2}).close()

        assert load_run(tmp_path).info == {"n": 2}


class TestLimit:
    @pytest.mark.slow
    def test_a_long_run_stays_within_its_space(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # hundreds, on a busy disk
        limit = 2**20
        writer = make(tmp_path, max_bytes=limit)
        generator = np.random.default_rng(0)
        sites = tuple(f"site.{i}" for i in range(20))
        most = 0
        for step in range(8_000):  # 8 MB
            columns = {f"x{i}": generator.random(20, np.float32) for i in range(10)}
            writer.append("parameters", step, columns, sites)
            writer.append("steps", step, {"loss": np.array([1.0])})
            if step % 20 == 0:
                most = max(most, folder_bytes(tmp_path / "signals"))
        writer.close()

        assert most <= limit
        assert load_run(tmp_path).num_bytes <= limit
        steps = load_run(tmp_path).table("parameters")["step"].unique().sort().to_numpy()
        gaps = np.diff(steps)
        assert steps[-1] == 7_999
        assert (gaps[-10:] == 1).all()
        assert gaps[:10].min() >= 8
        assert len(steps) > 150
        assert len(list_segments(tmp_path / "signals")) < 100
        assert load_run(tmp_path).table("steps")["step"].to_list() == list(range(8_000))

    def test_events_cannot_fill_the_space(self, tmp_path):
        writer = make(tmp_path, max_bytes=2**16)
        for step in range(1000):
            writer.event(step, "clipped", factor=0.5)
        writer.close()

        events = load_run(tmp_path).events()
        assert (tmp_path / "signals" / "events.jsonl").stat().st_size < 2**13 + 200
        assert [e["kind"] for e in events[-2:]] == ["clipped", "events_full"]


def refuse(number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    return refused


class TestRefusal:
    def check(self, writer, heard, run, reason):
        """One warning, then silence, and what was written before is there."""
        put(writer, 2)
        writer.event(2, "x")
        writer.flush()
        writer.close()
        assert writer.failed
        assert heard == [
            f"Signals are not recorded any more: {run / 'signals'} cannot be written ({reason}). "
            "Training goes on, and what was written before stays readable. Free space there, or "
            "choose another folder, before the next run."
        ]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
    @pytest.mark.parametrize("call", ["open", "write"])
    def test_while_running(self, tmp_path, monkeypatch, number, call):
        heard = []
        writer = make(tmp_path, warn=heard.append)
        put(writer, 0)
        writer.flush()
        put(writer, 1)
        monkeypatch.setattr(os, call, refuse(number))
        writer.flush()
        monkeypatch.undo()

        self.check(writer, heard, tmp_path, os.strerror(number))
        assert steps_of(tmp_path) == [0]

    def test_at_the_start(self, tmp_path):
        heard = []
        (tmp_path / "file").write_text("")
        run = tmp_path / "file" / "run"

        writer = make(run, warn=heard.append)

        assert heard
        self.check(writer, heard, run, os.strerror(errno.ENOTDIR))

    def test_when_the_folder_goes(self, tmp_path):
        heard = []
        writer = make(tmp_path / "run", warn=heard.append)
        put(writer, 0)
        writer.flush()
        put(writer, 1)
        shutil.rmtree(tmp_path / "run")
        writer.flush()

        self.check(writer, heard, tmp_path / "run", os.strerror(errno.ENOENT))
        assert not (tmp_path / "run").exists()

    def test_while_compacting_at_the_end(self, tmp_path, monkeypatch):
        heard = []
        writer = make(tmp_path, warn=heard.append)
        put(writer, 0)
        monkeypatch.setattr(segments_module, "write_atomic", refuse(errno.ENOSPC))
        writer.close()

        self.check(writer, heard, tmp_path, os.strerror(errno.ENOSPC))
        assert steps_of(tmp_path) == [0]

    def test_while_compacting_in_the_background(self, tmp_path, monkeypatch):
        heard = []
        monkeypatch.setattr(segments_module, "write_atomic", refuse(errno.ENOSPC))
        writer = make(tmp_path, warn=heard.append, segment_bytes=1000)
        for step in range(2):
            put(writer, step)
            writer.flush()
        writer._log._tidying.join()

        self.check(writer, heard, tmp_path, os.strerror(errno.ENOSPC))
        assert steps_of(tmp_path) == [0, 1]

    def test_the_warning_points_at_the_caller(self, tmp_path):
        writer = make(tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        put(writer, 0)
        with pytest.warns(UserWarning, match="^Signals are not recorded any more") as caught:
            writer.flush()

        assert caught[0].filename == __file__
        assert writer.failed

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
    @pytest.mark.parametrize("kilobytes", [4, 20, 64, 200])
    def test_on_a_disk_that_is_really_full(self, tmp_path, kilobytes):
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("this user cannot mount a tmpfs")
        try:
            heard = []
            writer = make(disk / "run", warn=heard.append, segment_bytes=30_000)
            generator = np.random.default_rng(0)
            for step in range(20_000):
                writer.append("parameters", step, {"x": generator.random(3)}, SITES)
                if step % 100 == 0:
                    writer.flush()
                if writer.failed:
                    break
            self.check(writer, heard, disk / "run", os.strerror(errno.ENOSPC))
            if (disk / "run" / "signals" / "info.json").exists():
                steps = steps_of(disk / "run")
                assert steps == list(range(len(steps)))
                assert len(steps) >= kilobytes * 5 or kilobytes < 64
        finally:
            subprocess.run(["umount", str(disk)], check=True)


# Forks a writer for every line it reads, so that the interpreter starts once.
SERVER = """
import os, pathlib, sys
import numpy as np
from trimtab.signals import RunWriter
import pyarrow.parquet
for line in sys.stdin:
    run, first = line.split()
    child = os.fork()
    if child:
        print("pid", child, flush=True)
        os.waitpid(child, 0)
        print("end", flush=True)
        continue
    writer = RunWriter(pathlib.Path(run), info={}, flush_s=1e9, segment_bytes=30_000)
    sites = tuple("abc")
    for step in range(int(first), 10**9):
        values = np.arange(3, dtype=np.float32) + 10 * (step % 1000)
        writer.append("parameters", step, {"x": values, "y": -values}, sites)
        writer.append("steps", step, {"loss": np.array([float(step)])})
        if step % 50 == 49:
            writer.flush()
            os.write(1, b"flushed %d\\n" % step)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_survives_being_killed_at_any_moment(tmp_path):
    chance = random.Random(0)
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as server:
        first = 0
        for kill in range(50):
            run = tmp_path / f"run-{kill // 5}"  # five sessions each
            if kill % 5 == 0:
                first = 0
            server.stdin.write(f"{run} {first}\n")
            server.stdin.flush()
            child = int(server.stdout.readline().split()[1])
            time.sleep(chance.uniform(0.01, 0.4))
            os.kill(child, signal.SIGKILL)
            reported = first - 1
            for line in iter(server.stdout.readline, "end\n"):
                reported = int(line.split()[1])

            if not (run / "signals" / "info.json").exists():
                assert reported < 0
                continue
            check_rows(run, reported)
            first = max(0, reported + 1 - chance.randrange(60))
        server.stdin.close()


def check_rows(run, reported):
    """Rows are whole, in order, and without gaps up to what was flushed."""
    if not (table := load_run(run).table("parameters")).height:
        assert reported < 0
        return
    steps = table["step"].to_numpy()
    num = len(steps) // 3
    assert len(steps) == 3 * num
    assert (steps == np.repeat(np.arange(num), 3)).all()
    assert num > reported
    x = np.tile(np.arange(3), num) + 10 * (steps % 1000)
    assert (table["x"].to_numpy() == x).all()
    assert (table["y"].to_numpy() == -x).all()
    assert (table["site"].cast(str).to_numpy() == np.tile(list("abc"), num)).all()
    losses = load_run(run).table("steps")
    assert losses["step"].to_list() == losses["loss"].to_list() == list(range(len(losses)))
    assert len(losses) > reported


@pytest.mark.slow
def test_is_read_while_another_process_writes(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        server.stdin.write(f"{tmp_path} 0\n")
        server.stdin.flush()
        child = int(server.stdout.readline().split()[1])
        reported, before, deadline = -1, 0, time.monotonic() + 4
        while time.monotonic() < deadline:
            for _ in range(20):
                reported = int(server.stdout.readline().split()[1])
            check_rows(tmp_path, reported)
            assert load_run(tmp_path).last_step >= before
            before = load_run(tmp_path).last_step
        os.kill(child, signal.SIGKILL)
        server.stdin.close()
        server.stdout.read()
    assert any(s.compacted for s in list_segments(tmp_path / "signals"))
    assert json.loads((tmp_path / "signals" / "info.json").read_text()) == {}


def test_a_program_may_change_its_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = RunWriter(Path("run"), info={})
    writer.append("steps", 1, {"loss": np.ones(1)})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    writer.close()

    assert not writer.failed
    assert len(load_run(tmp_path / "run").table("steps")) == 1
