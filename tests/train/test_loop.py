import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from trimtab import StateError
from trimtab.checkpoint import _async, list_checkpoints, load_checkpoint
from trimtab.train._loop import FINAL_LOSS_STEPS
from trimtab.train._metrics import read_metrics


def names(folder):
    return [p.name for p in list_checkpoints(folder / "checkpoints")]


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def break_newest(folder):
    """Flip one bit of the newest checkpoint's weights."""
    path = list_checkpoints(folder / "checkpoints")[-1] / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path.parent


class TestSummary:
    def test_agrees_with_the_metrics(self, line):
        summary, folder = line.train(steps=30)
        rows = read_metrics(folder / "metrics.csv")
        losses = [row["loss"] for row in rows]
        assert summary["initial_loss"] == losses[0]
        assert summary["final_loss"] == sum(losses[-FINAL_LOSS_STEPS:]) / FINAL_LOSS_STEPS
        assert summary["val_loss"] == rows[-1]["val_loss"]
        assert summary["tokens"] == rows[-1]["tokens"]
        assert summary["steps"] == len(rows) == 30
        assert summary["seconds"] == pytest.approx(rows[-1]["seconds"], abs=0.5)

    def test_of_a_run_shorter_than_the_mean(self, line):
        summary, folder = line.train(steps=3)
        losses = [row["loss"] for row in read_metrics(folder / "metrics.csv")]
        assert summary["final_loss"] == sum(losses) / 3

    def test_seconds_add_up_over_sessions(self, line):
        _, folder = line.train()
        shutil.rmtree(list_checkpoints(folder / "checkpoints")[-1])
        line.train(resume=True)
        seconds = [row["seconds"] for row in read_metrics(folder / "metrics.csv")]
        assert seconds == sorted(seconds)
        assert seconds[9] > 0


class TestWhatIsDueWhen:
    def test_checkpoints(self, line):
        _, folder = line.train(steps=12, save_every=5, keep_checkpoints=9)
        assert names(folder) == ["step-00000005", "step-00000010", "step-00000012"]

    def test_the_newest_are_kept(self, line):
        _, folder = line.train(steps=12, save_every=2, keep_checkpoints=2)
        assert names(folder) == ["step-00000010", "step-00000012"]

    def test_zero_is_at_the_end_only(self, line):
        _, folder = line.train(steps=12, save_every=0, eval_every=0)
        assert names(folder) == ["step-00000012"]
        assert line.scopes == ["full"]
        rows = read_metrics(folder / "metrics.csv")
        assert ["val_loss" in row for row in rows] == [False] * 11 + [True]

    def test_the_clip_is_the_one_asked_for(self, line):
        _, clipped = line.train(out="clipped", optimizer={"clip": 0.01})
        _, measured = line.train(out="measured", optimizer={"clip": 0})
        for folder, bounded in ((clipped, True), (measured, False)):
            rows = read_metrics(folder / "metrics.csv")
            assert all(row["grad_norm"] > 0.01 for row in rows)
            assert [row["clip_coefficient"] < 1 for row in rows] == [bounded] * 12
        assert "clip at" not in (measured / "config.toml").read_text()


class TestNonFiniteLosses:
    @pytest.fixture
    def broken(self, line, monkeypatch):
        """The same recipe with a batch of NaN at step 4."""
        batch = line.batch
        monkeypatch.setattr(
            line, "batch", lambda i: tuple(t * (float("nan") if i == 3 else 1) for t in batch(i))
        )
        return line

    def test_are_skipped_told_and_written_as_nan(self, broken, console):
        summary, folder = broken.train(steps=20)
        assert (summary["stopped"], summary["steps"]) == ("finished", 20)
        assert summary["skipped_steps"] == 1
        assert console.file.getvalue().count("step 4 skipped") == 1
        lines = (folder / "metrics.csv").read_text().splitlines()
        assert lines[4].startswith("4,nan,nan,")
        assert [row["skipped"] for row in read_metrics(folder / "metrics.csv")] == [
            int(step == 4) for step in range(1, 21)
        ]

    def test_become_null_in_the_summary(self, broken):
        """The mean of the last ten includes the bad one: nothing nicer is made up."""
        _, folder = broken.train(steps=12)

        def refuse(constant):
            raise ValueError(constant)

        text = (folder / "summary.json").read_text()
        assert json.loads(text, parse_constant=refuse)["final_loss"] is None

    def test_a_skipped_step_does_not_move_the_schedule(self, broken):
        _, folder = broken.train(steps=20)
        rates = [row["lr"] for row in read_metrics(folder / "metrics.csv")]
        assert rates[3] == rates[4]


class TestResume:
    def test_a_damaged_checkpoint_falls_back_to_the_one_before(self, line):
        line.train(out="whole", steps=30)
        _, parts = line.train(out="parts", steps=30)
        damaged = break_newest(parts)

        with pytest.warns(UserWarning, match=f"{damaged} is damaged: model.safetensors.*before it"):
            line.train(out="parts", steps=30, resume=True)

        rows = [
            without_time(read_metrics(line.folder / name / "metrics.csv"))
            for name in ("whole", "parts")
        ]
        assert rows[0] == rows[1]
        load_checkpoint(damaged)  # written anew, and whole

    @pytest.mark.filterwarnings("ignore:Checkpoint")
    def test_with_damaged_ones_only(self, line):
        _, folder = line.train(save_every=0)
        break_newest(folder)
        before = (folder / "metrics.csv").read_bytes()
        with pytest.raises(StateError, match="All 1 checkpoints in"):
            line.train(save_every=0, resume=True)
        assert (folder / "metrics.csv").read_bytes() == before

    def test_a_finished_run_is_not_trained_further(self, line):
        first, folder = line.train()
        before = (folder / "metrics.csv").read_bytes()
        line.indices.clear()
        again, _ = line.train(resume=True)
        assert line.indices == []
        assert {**again, "seconds": 0} == {**first, "seconds": 0}
        assert (folder / "metrics.csv").read_bytes() == before


class TestFullDisk:
    def test_metrics_that_cannot_be_written_are_told_once(self, line, monkeypatch, console):
        real = os.write

        def full(handle, data):
            if data[:2] in {b"4,", b"5,"}:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(handle, data)

        monkeypatch.setattr(os, "write", full)
        summary, folder = line.train()
        assert (summary["stopped"], summary["steps"]) == ("finished", 12)
        steps = [row["step"] for row in read_metrics(folder / "metrics.csv")]
        assert steps == [1, 2, 3, *range(6, 13)]
        said = console.file.getvalue()
        assert said.count(f"Could not write the metrics to {folder}: No space left on device.") == 1
        assert "Training goes on; free some space before the next checkpoint." in said

    def test_the_next_checkpoint_is_tried_again(self, line, monkeypatch):
        real = _async.write_checkpoint

        def full_once(folder, step, *args, **options):
            if step == 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(folder, step, *args, **options)

        monkeypatch.setattr(_async, "write_checkpoint", full_once)
        _, folder = line.train()
        assert names(folder) == ["step-00000010", "step-00000012"]

    @pytest.mark.slow
    def test_a_limit_of_the_system(self, tmp_path):
        """No file may grow beyond 8 kB: metrics fit, checkpoints and the picture do not."""
        command = [sys.executable, "-m", "trimtab.cli", "train", "stablenet", "--steps", "10"]
        command += ["--depth", "2", "--width", "16", "--save-every", "3", "--out", "run", "--json"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        )
        assert json.loads(done.stdout.splitlines()[-1])["stopped"] == "finished"
        assert done.stderr.count("Could not write a checkpoint to run: File too large.") == 1
        folder = tmp_path / "run"
        assert len(read_metrics(folder / "metrics.csv")) == 10
        assert json.loads((folder / "summary.json").read_text())["steps"] == 10
        assert list((folder / "checkpoints").iterdir()) == []
        assert not (folder / "curves.png").exists()
        assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]
