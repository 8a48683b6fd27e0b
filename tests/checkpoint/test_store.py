import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from trimtab import ConfigError, StateError
from trimtab.checkpoint import list_checkpoints, load_checkpoint, load_latest, save_checkpoint


def save(folder, step, **options):
    model = {"weight": torch.full((3,), float(step))}
    return save_checkpoint(folder, step, model=model, state={"step": step}, **options)


def test_what_was_saved_comes_back(tmp_path):
    path = save(tmp_path / "new", 5)
    step, model, state = load_checkpoint(path)
    assert (step, state) == (5, {"step": 5})
    torch.testing.assert_close(model["weight"], torch.full((3,), 5.0))


def test_weights_open_with_safetensors_alone(tmp_path):
    weights = load_file(save(tmp_path, 5) / "model.safetensors")
    assert weights["weight"].tolist() == [5, 5, 5]


def test_the_newest_are_kept(tmp_path):
    for step in (9, 10, 11):
        save(tmp_path, step, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000011"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3)
    save_checkpoint(tmp_path, 3, model={"weight": torch.zeros(1)}, state={})
    assert load_latest(tmp_path)[1]["weight"].tolist() == [0]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found_and_the_one_before_is_taken(tmp_path, name, damage):
    save(tmp_path, 1)
    broken = save(tmp_path, 2) / name
    data = broken.read_bytes()
    if damage == "remove":
        broken.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        broken.write_bytes(flipped if damage == "flip" else data[:middle])
    with pytest.raises(StateError, match=f"damaged.*{name}"):
        load_checkpoint(broken.parent)
    with pytest.warns(UserWarning, match="Trying the one before it"):
        assert load_latest(tmp_path)[0] == 1


def test_without_any_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint"):
        load_latest(tmp_path / "nothing")


@pytest.mark.filterwarnings("ignore:Checkpoint")
def test_with_damaged_ones_only(tmp_path):
    (save(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(StateError, match="All 1 checkpoints"):
        load_latest(tmp_path)


def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, keep=1)
    monkeypatch.undo()
    assert load_latest(tmp_path)[0] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_state_that_cannot_be_saved_changes_nothing(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ConfigError, match="pickling"):
        save_checkpoint(tmp_path, 2, model={}, state={"x": object()}, keep=1)
    assert load_latest(tmp_path)[0] == 1


def test_a_leftover_of_a_killed_save_is_no_checkpoint(tmp_path):
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / ".step-00000002.77.tmp")
    assert load_latest(tmp_path)[0] == 1
