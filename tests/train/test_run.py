import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from trimtab import ConfigError, load_run
from trimtab.checkpoint import list_checkpoints

KEYS = {
    *("recipe", "stopped", "steps", "skipped_steps", "initial_loss", "final_loss", "val_loss"),
    *("tokens", "seconds", "num_parameters", "device", "incidents", "findings", "out"),
}


@pytest.mark.parametrize("name", ["gpt", "stablenet"])
def test_a_run_leaves_a_whole_folder(run, name):
    summary, folder = run(name)
    assert {p.name for p in folder.iterdir()} == {
        *("config.toml", "metrics.csv", "checkpoints", "curves.png", "signals", "summary.json")
    }
    assert json.loads((folder / "summary.json").read_text()) == summary
    extra = {"test_accuracy"} if name == "stablenet" else set()
    assert summary.keys() == KEYS | extra
    assert (summary["recipe"], summary["steps"], summary["skipped_steps"]) == (name, 12, 0)
    assert summary["stopped"] == "finished"
    assert summary["findings"] == []
    assert summary["final_loss"] < summary["initial_loss"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert load_file(list_checkpoints(folder / "checkpoints")[-1] / "model.safetensors")


def test_metrics_open_in_pandas_and_polars(run):
    _, folder = run()
    for table in (
        pd.read_csv(folder / "metrics.csv"),
        pd.DataFrame(pl.read_csv(folder / "metrics.csv").to_dicts()),
    ):
        assert table["step"].tolist() == list(range(1, 13))
        assert table["val_loss"].notna().tolist() == [s in {5, 10, 12} for s in range(1, 13)]
        assert (table["grad_norm"] > 0).all()
        assert table["lr"].iloc[0] == 0


@pytest.mark.parametrize("name", ["gpt", "stablenet"])
def test_the_same_seed_repeats_bit_for_bit(run, name):
    def losses(out, seed):
        _, folder = run(name, out=out, run={"seed": seed}, model={"dropout": 0.1})
        return pd.read_csv(folder / "metrics.csv")["loss"].tolist()

    first, again, other = losses("a", 1), losses("b", 1), losses("c", 2)
    assert first == again
    assert first != other


class KilledError(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("name", ["gpt", "stablenet"])
@pytest.mark.parametrize("kill_at", [5, 8])
def test_resume_is_bit_for_bit(run, name, kill_at, monkeypatch):
    """Killed at a checkpoint and between two of them; dropout and accumulation are on."""
    from trimtab.train._loop import Training

    settings = {"model": {"dropout": 0.1}, "optimizer": {"accumulate": 2}}
    straight, whole = run(name, out="whole", **settings)

    original = Training._train_step

    def killed(self):
        if self.step == kill_at:
            raise KilledError
        original(self)

    monkeypatch.setattr(Training, "_train_step", killed)
    with pytest.raises(KilledError):
        run(name, out="parts", **settings)
    monkeypatch.undo()
    summary, parts = run(name, out="parts", resume=True, **settings)

    timing = {"seconds", "out"}
    assert {k: v for k, v in summary.items() if k not in timing} == {
        k: v for k, v in straight.items() if k not in timing
    }
    a, b = (pd.read_csv(f / "metrics.csv").drop(columns="seconds") for f in (whole, parts))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    weights = [
        load_file(list_checkpoints(f / "checkpoints")[-1] / "model.safetensors")
        for f in (whole, parts)
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_run_leaves_the_random_state_alone(run):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run(run={"threads": threads + 1})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_nothing_is_overwritten(run):
    _, folder = run()
    before = (folder / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError, match="not empty, and nothing is ever overwritten"):
        run()
    assert (folder / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"optimizer": {"warmup": 100.0}}, "warmup is 100 steps, but the run has 12"),
        ({"optimizer": {"batch_size": 5000}}, "batch_size 5000 is more than"),
        ({"run": {"device": "tpu9"}}, "Device 'tpu9' cannot be used"),
        ({"run": {"device": "meta"}}, "holds no values"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(run, tmp_path, tables, message):
    with pytest.raises(ConfigError, match=message):
        run(**tables)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_stop_training(run, monkeypatch, console):
    from trimtab.checkpoint import _async

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_async, "write_checkpoint", full)
    summary, folder = run()
    assert summary["steps"] == 12
    said = console.file.getvalue()
    assert said.count("No space left on device") == 1
    assert "Training goes on" in said
    assert (folder / "summary.json").exists()


def test_a_diverging_run_stops_with_everything_saved(run, monkeypatch, console):
    from trimtab.train import _loop

    original = _loop.Stepper

    def impatient(*args, **options):
        return original(*args, **options, max_skips=3)

    monkeypatch.setattr(_loop, "Stepper", impatient)
    from trimtab.recipes import _stablenet

    monkeypatch.setattr(
        _stablenet, "cross_entropy", lambda logits, *_, **__: logits.mean() * float("nan")
    )
    summary, folder = run()
    assert summary["stopped"] == "diverged"
    assert summary["skipped_steps"] == 4
    assert "steps in a row had a non-finite loss" in console.file.getvalue()
    assert pd.read_csv(folder / "metrics.csv")["loss"].isna().sum() == 4
    assert json.loads((folder / "summary.json").read_text())["final_loss"] is None


def test_lines_without_a_terminal_are_plain(run, console):
    run()
    lines = console.file.getvalue().splitlines()
    assert any(line.startswith("step 12/12  loss ") for line in lines)
    assert not any("\x1b" in line or "\r" in line for line in lines)


def test_every_layer_is_recorded(run):
    """With the signals beside the loop's own numbers, also over an interruption."""
    _, folder = run("gpt", run={"watch": 4})

    recorded = load_run(folder)

    steps = recorded.table("steps", backend="pandas").set_index("step")
    metrics = pd.read_csv(folder / "metrics.csv").set_index("step")
    assert steps.index.tolist() == metrics.index.tolist() == list(range(1, 13))
    for signal, column in {
        "loss": "loss",
        "gradient.norm": "grad_norm",
        "learning_rate": "lr",
    }.items():
        np.testing.assert_allclose(steps[signal], metrics[column], rtol=1e-5)
    modules = recorded.table("modules", backend="pandas")
    assert sorted(set(modules["step"])) == [1, 4, 8, 12]
    assert "blocks.0.attention.branch" in set(modules["site"])
    assert recorded.info["config"]["run"]["watch"] == 4


def test_watching_changes_no_number(run):
    watched, _ = run("gpt", out="watched", run={"watch": 1})
    plain, folder = run("gpt", out="plain", run={"watch": 0})

    assert watched["final_loss"] == plain["final_loss"]
    assert watched["val_loss"] == plain["val_loss"]
    assert not (folder / "signals").exists()
