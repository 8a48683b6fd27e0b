import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trimtab import ConfigError, StabilityWarning, StateError
from trimtab.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_latest,
    mark_checkpoint,
    save_checkpoint,
)


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


class FailingDisk:
    """Fails at one of the calls that write, and counts them."""

    def __init__(self, monkeypatch, at):
        self.calls, self.at = 0, at
        patched = [(os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "open")]
        for owner, name in patched:
            monkeypatch.setattr(owner, name, self.failing(getattr(owner, name)))

    def failing(self, real):
        def call(*args, **kwargs):
            if "rb" not in args:
                self.calls += 1
                if self.calls == self.at:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("step", [2, 3], ids=["replace", "new"])
def test_a_disk_that_is_full_at_any_moment_leaves_the_old_ones(tmp_path, step, monkeypatch):
    """Nothing is lost and no debris stays, whichever of the writes fails."""
    for old in (1, 2):
        save(tmp_path, old)
    before = content(tmp_path)
    failed = []
    for at in range(1, 100):
        with monkeypatch.context() as patch:
            disk = FailingDisk(patch, at)
            try:
                save(tmp_path, step, keep=3)
            except OSError as error:
                failed.append(error.errno)
        if disk.calls < at:
            break
        left = content(tmp_path)
        assert {name: left[name] for name in before} == before
        assert {p.parts[0] for p in map(Path, left)} <= {f"step-{s:08d}" for s in (1, 2, step)}
        assert load_latest(tmp_path)[0] in {2, step}  # the new one, if all but its name was safe
    assert len(failed) > 10
    assert set(failed) == {errno.ENOSPC}
    assert load_latest(tmp_path)[0] == step


def test_an_old_one_that_cannot_be_removed_stays_whole(tmp_path, monkeypatch):
    save(tmp_path, 1)
    rename = Path.rename

    def refuse(path, target):
        if path.name.startswith("step-"):
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    save(tmp_path, 2, keep=1)
    assert [load_checkpoint(p)[0] for p in list_checkpoints(tmp_path)] == [1, 2]


def test_a_folder_that_cannot_be_written(tmp_path):
    """A file in its place: who runs the tests may be allowed to write everywhere."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="Make it writable or choose another folder") as caught:
        save(tmp_path / "runs" / "gpt", 1)
    assert caught.value.errno == errno.ENOTDIR
    assert caught.value.filename == str(tmp_path / "runs" / "gpt")


def test_settings_that_can_never_work(tmp_path):
    with pytest.raises(ConfigError, match="keep must be at least 1, got 0"):
        save(tmp_path, 1, keep=0)
    with pytest.raises(ConfigError, match="step must not be negative, got -1"):
        save(tmp_path, -1)
    assert list(tmp_path.iterdir()) == []


def test_the_newest_healthy_one_is_preferred(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    save(tmp_path, 3, healthy=False)
    assert load_latest(tmp_path)[0] == 3
    assert load_latest(tmp_path, healthy=True)[0] == 2


def test_an_unhealthy_one_is_better_than_none(tmp_path):
    save(tmp_path, 3, healthy=False)
    assert load_latest(tmp_path, healthy=True)[0] == 3


def test_one_that_tells_no_health_is_tried_and_named(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "manifest.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"step-00000002 is damaged.*Trying the one before it"):
        assert load_latest(tmp_path, healthy=True)[0] == 1


def test_marking_later(tmp_path):
    save(tmp_path, 1)
    mark_checkpoint(save(tmp_path, 2), healthy=False)
    assert load_latest(tmp_path, healthy=True)[0] == 1


def test_tensors_that_safetensors_cannot_hold(tmp_path):
    model = {"a": torch.ones(1, dtype=torch.complex128)}
    with pytest.raises(ConfigError, match=r"a has type torch\.complex128"):
        save_checkpoint(tmp_path, 1, model=model, state={})


def test_numbers_that_json_cannot_hold(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        save_checkpoint(tmp_path, 1, model={}, state={"x": 10**5000})


def test_state_that_cannot_be_saved_changes_nothing(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ConfigError, match="pickling"):
        save_checkpoint(tmp_path, 2, model={}, state={"x": object()}, keep=1)
    assert load_latest(tmp_path)[0] == 1


def test_a_leftover_of_a_killed_save_is_no_checkpoint(tmp_path):
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / ".step-00000002.999999999.tmp")
    assert load_latest(tmp_path)[0] == 1
    save(tmp_path, 3)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["step-00000001", "step-00000003"]


def test_a_checkpoint_pushed_aside_by_a_killed_save_is_found(tmp_path):
    path = save(tmp_path, 1)
    path.rename(tmp_path / ".step-00000001.999999999.old")
    assert load_latest(tmp_path)[0] == 1
    assert list_checkpoints(tmp_path) == [path]


def test_a_folder_that_may_only_be_read(tmp_path, monkeypatch):
    """The folder is there; what is to be made in it is refused. Root may write everywhere."""
    save(tmp_path, 1)

    def refuse(path, *_, **__):
        if path.name.startswith("."):
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        OSError, match=r"Read-only file system[.] Make it writable or choose another"
    ):
        save(tmp_path, 2)
    assert load_latest(tmp_path)[0] == 1


def test_a_folder_that_is_removed_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    run = tmp_path / "run"
    save(run, 1)
    fsync = os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda handle: shutil.rmtree(run) if run.exists() else fsync(handle)
        )
        with pytest.raises(FileNotFoundError, match="The folder was removed, renamed or unmounted"):
            save(run, 2)
    save(run, 3)  # it is made anew
    assert [p.name for p in run.iterdir()] == ["step-00000003"]


def test_a_checkpoint_that_is_not_there_is_not_called_damaged(tmp_path):
    with pytest.raises(StateError, match=r"There is no checkpoint .*step-00000007\. A training"):
        load_checkpoint(tmp_path / "step-00000007")


def test_one_that_is_rotated_away_while_it_is_loaded(tmp_path, monkeypatch):
    """No warning of damage, and the one that replaced it."""
    save(tmp_path, 1)
    read = Path.read_bytes
    steps = [2, 3]

    def overtaken(path):
        if path.name == "state.json" and steps:
            save(tmp_path, steps.pop(0), keep=1)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", overtaken)
    assert load_latest(tmp_path)[0] == 3


def test_the_only_one_while_it_is_being_replaced(tmp_path, monkeypatch):
    """Between two renames by a process that saves the same step again, there is none."""
    path = save(tmp_path, 1)
    aside = path.rename(tmp_path / f".{path.name}.{os.getppid()}.old")
    monkeypatch.setattr(time, "sleep", lambda _: aside.rename(path))
    assert load_latest(tmp_path)[0] == 1


WRITER = """
import sys, time, torch
from pathlib import Path
from trimtab.checkpoint import save_checkpoint

end = time.monotonic() + 3
step = 0
while time.monotonic() < end:
    step += 1
    model = {"weight": torch.full((3,), float(step))}
    save_checkpoint(Path(sys.argv[1]), step, model=model, state={"step": step}, keep=1)
"""


@pytest.mark.slow
def test_a_reader_beside_a_training_always_finds_one(tmp_path):
    save(tmp_path, 0)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    seen = set()
    while writer.poll() is None:
        step, model, state = load_latest(tmp_path)  # a warning of damage would be an error
        assert model["weight"].tolist() == [step] * 3
        assert state == {"step": step}
        seen.add(step)
    assert writer.returncode == 0
    assert len(seen) > 5


def test_a_training_that_removes_them_faster_than_they_are_read(tmp_path, monkeypatch):
    save(tmp_path, 1)
    read = Path.read_bytes

    def overtaken(path):
        if path.name == "state.json":
            save(tmp_path, int(path.parent.name[5:]) + 1, keep=1)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", overtaken)
    with pytest.raises(StateError, match="removed by a training while they are read"):
        load_latest(tmp_path)


def test_another_process_that_saves_into_the_same_folder_is_named(tmp_path):
    theirs = tmp_path / f".step-00000004.{os.getppid()}.tmp"
    theirs.mkdir()
    with pytest.warns(StabilityWarning, match=f"Process {os.getppid()} is saving into .* as well"):
        save(tmp_path, 1)
    assert theirs.exists()
    theirs.rmdir()
    save(tmp_path, 2)


def test_a_clock_that_goes_back_changes_nothing(tmp_path):
    """The newest is the one of the highest step, whatever the disk says of times."""
    for age, step in enumerate((1, 2, 3)):
        for path in [save(tmp_path, step, keep=3), *(tmp_path / f"step-{step:08d}").iterdir()]:
            os.utime(path, (10**9 - age * 10**6,) * 2)
    assert load_latest(tmp_path)[0] == 3
    save(tmp_path, 4, keep=2)
    assert [p.name[-1] for p in list_checkpoints(tmp_path)] == ["3", "4"]
