import math
import struct

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from trimtab.train._plot import plot_curves


def rows(count=20, **changes):
    made = []
    for step in range(1, count + 1):
        row = {"step": step, "loss": 3 / step, "grad_norm": 2 / step, "lr": 1e-3 * step}
        row |= {"skipped": int(step == 7)} | ({"val_loss": 4 / step} if step % 5 == 0 else {})
        made.append(row | changes)
    return made


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw into a file; returns it and the axes for loss, learning rate and gradient norm."""
    figures = []
    savefig = Figure.savefig

    def keep(self, *args, **options):
        figures.append(self)
        savefig(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(rows, clip=1.0):
        path = tmp_path / "curves.png"
        plot_curves(rows, path, title="gpt: 20 steps", loss_unit="nats a byte", clip=clip)
        return path, figures[-1].axes

    return draw


def curve(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return [list(line.get_xdata()), list(line.get_ydata())]


def test_is_a_png_of_the_right_size(draw, tmp_path):
    path, _ = draw(rows())
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert struct.unpack(">II", data[16:24]) == (960, 840)
    assert imread(path).std() > 0.05  # something is drawn
    assert list(tmp_path.iterdir()) == [path]


def test_shows_the_numbers_of_the_run(draw):
    _, (loss, lr, norm) = draw(rows(), clip=0.5)
    steps = list(range(1, 21))
    assert curve(loss, "training") == [steps, [3 / s for s in steps]]
    assert curve(loss, "validation") == [[5, 10, 15, 20], [4 / s for s in (5, 10, 15, 20)]]
    assert list(lr.lines[0].get_ydata()) == [1e-3 * s for s in steps]
    assert curve(norm, "before clip") == [steps, [2 / s for s in steps]]
    assert curve(norm, "clip at 0.5")[1] == [0.5, 0.5]
    for axes in (loss, norm):
        assert curve(axes, "skipped")[0] == [7, 7]
    assert (loss.get_ylabel(), norm.get_yscale()) == ("loss, nats a byte", "log")


def test_without_a_clip_none_is_drawn(draw):
    _, (_, _, norm) = draw(rows(), clip=0)
    assert not [line for line in norm.lines if str(line.get_label()).startswith("clip")]


@pytest.mark.parametrize(
    "made",
    [
        [],
        rows(1),
        rows(loss=math.nan, grad_norm=math.nan, skipped=1),
        rows(loss=math.inf, grad_norm=math.inf, val_loss=math.nan),
        rows(grad_norm=0.0),
        rows(loss=-1e30, grad_norm=1e30),
    ],
    ids=["no-steps", "one-step", "all-nan", "all-infinite", "no-gradient", "huge"],
)
def test_any_run_can_be_drawn(draw, made):
    path, _ = draw(made)
    assert imread(path).shape[:2] == (840, 960)


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_norms_that_have_no_logarithm_are_drawn_as_they_are(draw, norm):
    _, (_, _, axes) = draw(rows(grad_norm=norm))
    assert axes.get_yscale() == "linear"


def test_replaces_the_picture_before(draw):
    path, _ = draw(rows(1))
    before = path.read_bytes()
    draw(rows(20))
    assert path.read_bytes() != before
