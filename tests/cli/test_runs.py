import webbrowser

import numpy as np
import pytest

from trimtab.cli import main
from trimtab.signals import RunWriter


def record(folder):
    """Write a run of three steps."""
    writer = RunWriter(folder, info={"name": "tiny"})
    for step in range(3):
        writer.append("steps", step, {"loss": np.array([3.0 - step])})
    writer.close()


def test_report_of_the_newest_run(capsys, tmp_path):
    record(tmp_path / "runs" / "one")
    assert main(["report"]) == 0
    assert capsys.readouterr().out == "runs/one/report.html\n"
    assert "tiny" in (tmp_path / "runs" / "one" / "report.html").read_text(encoding="utf-8")


def test_report_of_two_runs_into_a_file_that_is_opened(capsys, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    for name in ("a", "b"):
        record(tmp_path / name)
    assert main(["report", "a", "b", "--out", "both.html", "--open"]) == 0
    assert capsys.readouterr().out == "both.html\n"
    assert opened == [(tmp_path / "both.html").as_uri()]


def test_watch_once(capsys, tmp_path):
    record(tmp_path / "runs" / "one")
    assert main(["watch", "--once"]) == 0
    newest = capsys.readouterr().out
    assert newest.startswith("tiny  ended, healthy\n")
    assert main(["watch", "runs/one", "--once"]) == 0
    assert capsys.readouterr().out == newest


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["report"], "There is no run under runs/."),
        (["watch"], "There is no run under runs/."),
        (["report", "nowhere"], "nowhere"),
        (["watch", "nowhere", "--once"], "nowhere"),
        (["report", "a", "b", "c"], "one run or two, got 3"),
    ],
)
def test_a_run_that_cannot_be_shown(args, message, capsys, tmp_path):
    assert main(args) == 2
    told = capsys.readouterr().err
    assert told.startswith("trimtab: ")
    assert message in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
