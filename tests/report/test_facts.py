import math
from types import SimpleNamespace

import numpy as np
import pytest

from trimtab.report._facts import about, judge, key_figures, loss_ends
from trimtab.report._runs import RunData, Steps


def data(loss=None, summary=(), ended=True, info=(), **values):
    loss = np.linspace(5, 2, 100) if loss is None else np.asarray(loss, float)
    columns = {"loss": loss} | {
        k.replace("__", "."): np.asarray(v, float) for k, v in values.items()
    }
    steps = Steps(steps=np.arange(len(loss)), values=columns)
    return SimpleNamespace(steps=steps, summary=dict(summary), ended=ended, info=dict(info))


def flags(*raised):
    made = np.zeros(100)
    made[list(raised)] = 1
    return made


def with_nan(*places):
    loss = np.linspace(5, 2, 100)
    loss[list(places)] = math.nan
    return loss


@pytest.mark.parametrize(
    ("run", "level", "word"),
    [
        (data(), "good", "Healthy"),
        (data(ended=False), "good", "Healthy so far"),
        (data(step__skipped=flags(3)), "warn", "1 step skipped"),
        (data(with_nan(3), step__skipped=flags(3)), "warn", "1 step skipped"),
        (data(step__skipped=flags(3, 7)), "warn", "2 steps skipped"),
        (data(with_nan(3)), "warn", "NaN seen"),
        (data(with_nan(99)), "bad", "Ended in NaN"),
        (data(np.linspace(2, 3, 100)), "bad", "Loss rose"),
        (data(summary={"stopped": "diverged"}), "bad", "Diverged"),
        (data(summary={"stopped": "interrupted"}), "plain", "Stopped early"),
        (data([]), "plain", "No steps recorded"),
        (data(np.full(5, math.nan)), "good", "Healthy"),  # no loss was given
    ],
)
def test_verdict(run, level, word):
    verdict = judge(run)
    assert (verdict.level, verdict.word) == (level, word)


def test_facts():
    run = data(
        with_nan(3, 4), step__skipped=flags(3), gradient__clip_coefficient=1 - 0.5 * flags(8)
    )
    assert judge(run).facts == (
        "loss fell from 4.94 to 2.05",
        "1 of 100 steps skipped",
        "2 losses not finite",
        "1.0 % of steps clipped",
    )


def test_facts_of_a_run_that_measured_little():
    assert judge(data(np.full(5, math.nan))).facts == ("no step skipped",)
    assert judge(data([])).facts == ()


def test_ends_are_means_of_a_twentieth():
    loss = np.arange(100.0)
    assert loss_ends(data(loss).steps) == (2.0, 97.0)


def test_key_figures_of_a_run(make_run):
    figures = {f.label: f for f in key_figures(RunData.load(make_run()))}
    assert list(figures) == [
        "Steps",
        "Training loss",
        "Validation loss",
        "Largest gradient norm",
        "Clipped",
        "Skipped",
        "Speed",
        "Learning rate",
    ]
    assert figures["Steps"].value == "300"
    assert figures["Skipped"].note == "last at step 200"
    assert figures["Validation loss"].note.startswith("best, at step 299")


def test_what_was_not_measured_has_no_figure():
    figures = [f.label for f in key_figures(data(np.full(5, math.nan)))]
    assert figures == ["Steps", "Skipped"]
    assert key_figures(data([])) == []


def test_about(make_run, csv_run):
    assert about(RunData.load(make_run(num_steps=5))) == [
        "GPT",
        "1.23 M parameters",
        "on cpu",
        "2026-11-25 15:02",
    ]
    assert about(RunData.load(csv_run)) == ["gpt", "810 k parameters", "on cpu"]
    assert about(data(info={"model": {"num_parameters": 12}})) == ["12 parameters"]
    assert about(data(info={"started": "2026-11-25T15:02:03+00:00"})) == ["2026-11-25 15:02 UTC"]
    assert about(data(info={"started": "yesterday"})) == ["yesterday"]
