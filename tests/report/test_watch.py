import io
import re
import threading
import time

import numpy as np
import pyte
import pytest
from rich.console import Console

from trimtab.errors import ConfigError
from trimtab.report import _watch, watch
from trimtab.report._runs import RunData
from trimtab.signals import RunWriter


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100, highlight=False)


def said(console):
    return console.file.getvalue()


def test_once_shows_the_newest_numbers(make_run, console):
    watch(make_run(), once=True, console=console)
    lines = [line.rstrip() for line in said(console).splitlines()]
    assert lines[0] == "run  ended, 3 steps skipped"
    assert re.fullmatch(r"step +299", lines[1])
    assert re.fullmatch(r"loss +[\d.]+  [▁-█]{40}", lines[2])
    assert re.fullmatch(r"val loss +[\d.]+", lines[3])
    assert re.fullmatch(r"norm +[\d.]+  [▁-█]{40}", lines[4])
    assert re.fullmatch(r"lr +[\d.×⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lines[5])
    assert re.fullmatch(r"clipped +[\d.]+ %  of the last 50", lines[6])
    assert re.fullmatch(r"skipped +3  last at step 200", lines[7])
    assert re.fullmatch(r"speed +1\d\.\d steps/s", lines[8])
    headings = [line for line in lines if line.startswith("largest")]
    assert headings == ["largest gradient norm", "largest dead fraction", "largest update ratio"]
    dead = lines[lines.index("largest dead fraction") + 1]
    assert dead.split()[1] == "blocks.2.feed_forward.up"


def test_the_worst_layers_come_first(make_run, console):
    path = make_run()
    newest = RunData.load(path).layers["parameter"]
    values = newest.values["gradient.norm"][:, -1]
    watch(path, once=True, console=console)
    block = said(console).split("largest gradient norm")[1].split("largest")[0]
    shown = re.findall(r"[\d.]+ +(\S+)", block)
    assert shown == [newest.sites[i] for i in np.argsort(-values)[:4]]


def test_a_run_that_was_not_watched(csv_run, console):
    watch(csv_run, console=console)
    assert said(console).splitlines() == [
        "step 40  loss 1.125  val loss 0.1500  norm 0.05000  lr 0.040  clipped 2.5 %  skipped 0  "
        "speed 2 steps/s",
        "The run has ended: healthy.",
    ]


def test_plain_lines_until_the_run_has_ended(tmp_path, console, monkeypatch):
    monkeypatch.setattr(_watch, "LINE_EVERY_S", 0.0)
    writer = RunWriter(tmp_path / "run", info={}, flush_s=0)
    writer.append("steps", 0, {"loss": np.array([3.0])})
    writer.flush()

    def go_on():
        time.sleep(0.2)
        writer.append("steps", 1, {"loss": np.array([2.0])})
        writer.close()

    thread = threading.Thread(target=go_on)
    thread.start()
    watch(tmp_path / "run", every_s=0.02, console=console)
    thread.join()

    lines = said(console).splitlines()
    assert lines[0] == "step 0  loss 3  skipped 0"
    assert lines[-2:] == ["step 1  loss 2  skipped 0", "The run has ended: healthy."]


def test_on_a_terminal_the_view_is_renewed_in_place(tmp_path, monkeypatch):
    writer = RunWriter(tmp_path / "run", info={"name": "gpt"}, flush_s=0)
    writer.append("steps", 0, {"loss": np.array([3.0])})
    writer.flush()

    def sleep(_):
        writer.append("steps", 1, {"loss": np.array([2.0])})
        writer.close()

    monkeypatch.setattr(time, "sleep", sleep)
    file = io.StringIO()
    watch(tmp_path / "run", console=Console(file=file, force_terminal=True, width=80, height=24))

    screen = pyte.Screen(80, 24)
    stream = pyte.Stream(screen)
    stream.feed(file.getvalue().replace("\n", "\r\n"))
    shown = [line.rstrip() for line in screen.display if line.strip()]
    assert shown[0] == "gpt  ended, healthy"
    assert re.fullmatch(r"loss +2  █▁", shown[2])
    assert shown[-1] == "The run has ended: healthy."
    assert len([line for line in shown if line.startswith("step")]) == 1


def test_ctrl_c_ends_the_watching(make_run, console, monkeypatch):
    def sleep(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    watch(make_run(num_steps=5, close=False), console=console)
    assert said(console).splitlines()[-1] == "No longer watched; the run itself goes on."


def test_before_the_first_step(tmp_path, console):
    RunWriter(tmp_path / "run", info={}).flush()
    watch(tmp_path / "run", once=True, console=console)
    assert said(console) == "run  running\nno step yet\n"


def test_values_that_are_not_finite_stand_out():
    bars = _watch.sparkline(np.array([1.0, np.nan, 2.0, np.inf]))
    assert bars == "▁!█!"
    assert _watch.sparkline(np.array([np.nan])) == "!"
    assert _watch.sparkline(np.array([-1.0, 0.0, 1.0])) == "▁▅█"
    assert len(_watch.sparkline(np.arange(1.0, 99))) == 40


def test_names_are_not_taken_for_markup(make_run, console):
    watch(make_run(first_site="[red]embed", name="[bold]run"), once=True, console=console)
    assert said(console).startswith("[bold]run  ended")


def test_no_run(tmp_path, console):
    with pytest.raises(ConfigError):
        watch(tmp_path, console=console)
