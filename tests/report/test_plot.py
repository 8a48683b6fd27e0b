import numpy as np
from matplotlib.figure import Figure

from trimtab.report import plot
from trimtab.signals import RunWriter, load_run


def test_curves_and_heat_maps(make_run):
    path = make_run()
    curves, maps = plot(path)
    assert isinstance(curves, Figure)
    loss, rate, norm = curves.axes
    assert (loss.get_ylabel(), rate.get_ylabel(), norm.get_ylabel()) == (
        "loss",
        "learning rate",
        "gradient norm",
    )
    assert norm.get_yscale() == "log"
    labels = [line.get_label() for line in loss.lines]
    assert labels == ["training", "validation", "clipped", "skipped"]
    assert list(loss.lines[3].get_xdata()) == [70, 71, 200]
    assert [axes.get_title() for axes in maps.axes[:4]] == [
        "Gradient norm",
        "Activation RMS",
        "Activation dead fraction",
        "Update ratio",
    ]
    for figure in (curves, maps):
        figure.savefig(path / "figure.png")


def test_a_run_that_was_not_watched_has_curves_alone(csv_run):
    (curves,) = plot(load_run(csv_run))
    steps = np.arange(1, 41)
    np.testing.assert_allclose(curves.axes[0].lines[0].get_ydata(), 5 / steps + 1)
    assert curves.axes[2].lines[0].get_label() == "norm before clipping"


def test_what_was_never_finite_has_no_heat_map(tmp_path):
    writer = RunWriter(tmp_path / "run", info={})
    for step in range(3):
        values = np.array([0.0, 1.0]), np.array([np.nan, np.nan])
        columns = {"gradient.norm": values[0], "update.ratio": values[1]}
        writer.append("parameters", step, columns, ["a", "b"])
    writer.close()
    _, maps = plot(tmp_path / "run")
    assert [axes.get_title() for axes in maps.axes if axes.get_title()] == ["Gradient norm"]
    maps.savefig(tmp_path / "figure.png")


def test_nothing_recorded(tmp_path):
    RunWriter(tmp_path / "run", info={}).close()
    (curves,) = plot(tmp_path / "run")
    curves.savefig(tmp_path / "figure.png")
