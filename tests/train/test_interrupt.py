import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from trimtab.checkpoint import list_checkpoints
from trimtab.cli import main
from trimtab.train._interrupt import BrokenOff, StopRequest, stop_on_signals
from trimtab.train._loop import Training
from trimtab.train._metrics import read_metrics

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request(number):
    with stop_on_signals() as stop:
        assert not stop
        send(number)
        assert stop
        assert stop.signal == signal.Signals(number).name


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_interrupts_at_once(first):
    with stop_on_signals() as stop:
        send(first)
        with pytest.raises(KeyboardInterrupt) as caught:
            send(signal.SIGINT)
        assert stop
    assert caught.type is KeyboardInterrupt


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_sigterm_changes_nothing(first):
    """A launcher passes on what the scheduler has sent to every process anyway."""
    with stop_on_signals() as stop, stop.breakable():
        send(first)
        send(signal.SIGTERM)
        assert stop.signal == signal.Signals(first).name


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_breaks_a_step_off(first):
    with stop_on_signals() as stop:
        with stop.breakable():
            send(first)
            with pytest.raises(BrokenOff):
                send(signal.SIGINT)
        assert stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_step_that_takes_too_long_is_broken_off(number):
    with stop_on_signals(grace_s=0.3) as stop:
        stop.save_s = 0.1
        began = time.monotonic()
        with stop.breakable():
            send(number)
            with pytest.raises(BrokenOff):
                time.sleep(10)
        assert 0.05 < time.monotonic() - began < 5


def test_a_step_that_ends_in_time_is_not(fast_grace):
    with stop_on_signals(grace_s=fast_grace) as stop:
        with stop.breakable():
            send(signal.SIGTERM)
        time.sleep(2 * fast_grace)  # a save may take all the time that there is
        assert stop


def test_no_step_begins_when_the_time_is_over(fast_grace):
    done = []
    with stop_on_signals(grace_s=fast_grace) as stop:
        send(signal.SIGTERM)
        time.sleep(2 * fast_grace)
        with pytest.raises(BrokenOff), stop.breakable():
            done.append("a step")
    assert done == []


def test_time_for_a_save_is_set_aside():
    stop = StopRequest(grace_s=30)
    assert stop._allowed_s == 20
    stop.save_s = 4
    assert stop._allowed_s == 22
    stop.save_s = 40
    assert stop._allowed_s == 0


def test_no_timer_is_left_behind(fast_grace):
    before = threading.active_count()
    with stop_on_signals(grace_s=10) as stop:
        send(signal.SIGTERM)
        assert threading.active_count() == before + 1
        timer = stop._timer
    timer.join(timeout=5)
    assert threading.active_count() == before


@pytest.fixture
def fast_grace():
    """Seconds of a short grace period."""
    return 0.1


@pytest.mark.parametrize("number", SIGNALS)
def test_afterwards_signals_go_where_they_went_before(number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append("mine"))
    try:
        with stop_on_signals() as stop:
            send(number)
        send(number)
        assert (bool(stop), seen) == (True, ["mine"])
    finally:
        signal.signal(number, before)


def test_they_do_so_after_an_error_too():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_in_another_thread_nothing_is_changed():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def work():
        with stop_on_signals() as stop:
            seen.extend([bool(stop), [signal.getsignal(number) for number in SIGNALS]])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, before]


@pytest.fixture
def at_step(monkeypatch):
    """Do something in the middle of a step."""
    original = Training._train_step

    def plan(step, act):
        def train_step(self):
            if self.step == step:
                act()
            original(self)

        monkeypatch.setattr(Training, "_train_step", train_step)

    return plan


@pytest.mark.parametrize("number", SIGNALS)
def test_the_step_in_hand_is_finished_and_saved(line, at_step, number, console):
    at_step(6, lambda: send(number))
    summary, folder = line.train()
    assert (summary["stopped"], summary["steps"]) == ("interrupted", 7)
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == list(range(1, 8))
    assert list_checkpoints(folder / "checkpoints")[-1].name == "step-00000007"
    assert (folder / "curves.png").exists()
    said = console.file.getvalue()
    assert "Stopped after step 7; everything is saved. Go on with:\n" in said
    assert f"  trimtab train --resume --out {folder}\n" in said


def test_the_command_it_names_is_right_for_any_folder(line, at_step, console):
    """Neither the terminal's markup nor the shell may change the name."""
    at_step(6, lambda: send(signal.SIGINT))
    _, folder = line.train(out="my [red]run")
    assert f"trimtab train --resume --out '{folder}'\n" in console.file.getvalue()


def test_a_second_signal_breaks_the_step_off_and_saves_the_one_before(line, at_step, monkeypatch):
    straight, _ = line.train(out="whole")
    at_step(8, lambda: [send(signal.SIGINT) for _ in range(2)])
    summary, parts = line.train(out="parts")
    assert (summary["stopped"], summary["steps"]) == ("interrupted", 8)
    assert len(read_metrics(parts / "metrics.csv")) == 8
    monkeypatch.undo()
    summary, _ = line.train(out="parts", resume=True)
    assert summary["val_loss"] == straight["val_loss"]


def test_the_command_ends_with_130_on_a_second_signal(at_step, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    at_step(2, lambda: [send(signal.SIGINT) for _ in range(2)])
    command = ["train", "stablenet", "--steps", "10", "--depth", "2", "--width", "16", "--out", "a"]
    assert main(command) == 130
    assert "Stopped after step 2; everything is saved." in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_stopped_by_ctrl_c_ends_like_one_that_was_not(tmp_path, monkeypatch):
    """A real signal to a real process, at a step that nobody chose."""
    monkeypatch.chdir(tmp_path)
    settings = ["stablenet", "--depth", "2", "--width", "16", "--eval-every", "0"]
    settings += ["--steps", "400", "--batch-size", "8", "--accumulate", "2", "--threads", "1"]
    command = [sys.executable, "-m", "trimtab.cli", "train", *settings, "--out", "parts"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "parts" / "metrics.csv"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 30):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert 30 <= len(read_metrics(metrics)) < 400

    assert main(["train", "--resume", "--out", "parts"]) == 0
    assert main(["train", *settings, "--out", "whole"]) == 0

    tables = [pd.read_csv(f"{f}/metrics.csv").drop(columns="seconds") for f in ("whole", "parts")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    weights = [
        load_file(f"{f}/checkpoints/step-00000400/model.safetensors") for f in ("whole", "parts")
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
