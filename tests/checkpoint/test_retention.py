import pytest

from trimtab.checkpoint import list_checkpoints, mark_checkpoint, save_checkpoint
from trimtab.checkpoint._retention import is_healthy, step_of


def save(folder, step, healthy=True, keep=2):
    return save_checkpoint(folder, step, model={}, state={}, keep=keep, healthy=healthy)


def kept(folder):
    return [step_of(p) for p in list_checkpoints(folder)]


@pytest.mark.parametrize(
    ("saves", "left"),
    [
        ("1 2 3", [2, 3]),
        ("1 2 3! 4! 5!", [1, 2, 5]),
        ("1 2! 3", [1, 3]),
        ("1! 2! 3!", [3]),
        ("1! 2", [2]),
        ("10 20 30! 15", [10, 15]),  # rolled back to before 20
        ("10 20 15!", [10, 15, 20]),
        ("10 20 30! 30", [20, 30]),
        ("99999999 100000000 100000001", [100000000, 100000001]),
    ],
)
def test_healthy_ones_stay(tmp_path, saves, left):
    for each in saves.split():
        save(tmp_path, int(each.rstrip("!")), healthy=not each.endswith("!"))
    assert kept(tmp_path) == left


def test_one_that_proved_unhealthy_later_goes_first(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    mark_checkpoint(save(tmp_path, 3, keep=3), healthy=False)
    save(tmp_path, 4)
    assert kept(tmp_path) == [2, 4]


def test_one_that_cannot_be_read_stays_until_it_is_the_oldest(tmp_path):
    """It may be of a later version."""
    path = save(tmp_path, 1)
    (path / "manifest.json").write_text("{}")
    assert is_healthy(path) is None
    save(tmp_path, 2)
    assert kept(tmp_path) == [1, 2]
    save(tmp_path, 3)
    assert kept(tmp_path) == [2, 3]


def test_what_is_named_otherwise_is_never_touched(tmp_path):
    save(tmp_path, 1).rename(tmp_path / "step-00000001-best")
    for step in (2, 3, 4):
        save(tmp_path, step, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001-best", "step-00000004"]
