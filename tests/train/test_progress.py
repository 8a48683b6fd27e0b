import io
import time

import pytest
from rich.console import Console

from trimtab.train._progress import Display, _clock, _short


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def row(step, **changes):
    made = {"step": step, "loss": 2.5, "grad_norm": 0.25, "lr": 1e-3, "tokens": 100 * step}
    return made | {"skipped": 0} | changes


def lines(console):
    return console.file.getvalue().splitlines()


def test_without_a_terminal_a_line_comes_every_ten_seconds(console, clock):
    display = Display(1000, unit="tokens", console=console)
    for step in range(1, 1001):
        display.step(row(step))
        clock.now += 0.5
    shown = [int(line.split("/")[0].removeprefix("step ")) for line in lines(console)]
    assert shown == [*range(1, 1000, 20), 1000]


def test_a_line_holds_what_one_wants_to_know(console, clock):
    display = Display(60, unit="tokens", console=console)
    with display.at(0):
        display.step(row(1))
        display.validated(1, {"val_loss": 2.25, "test_accuracy": 0.5})
        clock.now += 30
        display.step(row(31, tokens=90_100))
    assert lines(console) == [
        "step 1/60  loss 2.500  norm 0.25  lr 1.0e-03",
        "step 1  val_loss 2.2500  test_accuracy 0.5000",
        "step 31/60  loss 2.500  val 2.250  norm 0.25  lr 1.0e-03  3.0k tokens/s  0:29 left",
    ]


def test_speed_of_a_resumed_run_is_that_of_its_session(console, clock):
    display = Display(1000, unit="samples", console=console)
    with display.at(900):
        display.step(row(901, tokens=1_000_000))
        clock.now += 10
        display.step(row(911, tokens=1_000_500))
    assert lines(console)[-1].endswith("  50 samples/s  1:29 left")


def test_a_skipped_step_is_always_told(console, clock):
    display = Display(100, unit="tokens", console=console)
    display.step(row(1))
    display.step(row(2, skipped=1, loss=float("nan"), grad_norm=float("inf")))
    display.step(row(3))
    assert lines(console)[1:] == ["step 2 skipped: a loss or gradient was not finite"]


def test_lines_are_not_wrapped():
    console = Console(file=io.StringIO(), width=20)
    Display(10, unit="tokens", console=console).say("a sentence that is longer than the terminal")
    assert lines(console) == ["a sentence that is longer than the terminal"]


def test_on_a_terminal_there_is_a_bar(clock):
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    display = Display(40, unit="tokens", console=console)
    with display.at(10):
        display.step(row(11))
        clock.now += 30
        display.step(row(20))
        display.say("saved")
    said = console.file.getvalue()
    assert "step 20/40" in said
    assert "loss 2.500  norm 0.25  lr 1.0e-03" in said
    assert "saved" in said
    assert "left" not in said  # no plain lines beside it


def test_the_default_goes_to_standard_error(capsys):
    Display(10, unit="tokens").say("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.4, "0"), (999, "999"), (1000, "1.0k"), (25_340, "25.3k"), (3.2e6, "3.2M"), (4.5e9, "4.5G")],
)
def test_short_numbers(number, text):
    assert _short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")],
)
def test_clock(seconds, text):
    assert _clock(seconds) == text
