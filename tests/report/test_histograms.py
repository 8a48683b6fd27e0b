import base64

import numpy as np

from trimtab.report._grids import LARGEST, MISSING
from trimtab.report._histograms import bin_names, pack_histograms
from trimtab.report._runs import RunData
from trimtab.signals import RunWriter
from trimtab.signals._histogram import histogram_edges


def record(path, counts, *, sites=("weight/a", "activation/b"), edges=(-2.0, -1.0, 1.0, 2.0)):
    writer = RunWriter(path, info={"histogram_edges": list(edges)})
    for step, one in enumerate(counts):
        writer.append("histograms", 100 * step, {"count": np.array(one, float)}, list(sites))
    writer.close()
    return RunData.load(path)


def shares(packed, num_bins):
    highs = np.frombuffer(base64.b64decode(packed["highs"]), "<f4")
    codes = np.frombuffer(base64.b64decode(packed["codes"]), "<u2").reshape(num_bins, -1)
    return np.where(codes == MISSING, 0, codes / LARGEST * highs[:, None])


def test_shares_in_per_cent_with_the_largest_values_on_top(tmp_path):
    counts = [[[1, 2, 1], [0, 0, 4]], [[2, 0, 2], [0, 5, 5]]]
    bins, made = pack_histograms([record(tmp_path / "run", counts)])
    assert bins == ["−2⁰", "0", "2⁰"]
    assert [one["title"] for one in made] == ["Activation of b", "Weight of a"]
    activation, weight = made
    assert weight["rows"] == [2, 1, 0]
    np.testing.assert_allclose(
        shares(weight["runs"][0], 3), [[25, 50], [50, 0], [25, 50]], atol=0.01
    )
    assert activation["rows"] == [2, 1]  # nothing was negative
    np.testing.assert_allclose(shares(activation["runs"][0], 2), [[100, 50], [0, 50]], atol=0.01)
    assert activation["colour"] == [0, 100]


def test_the_last_record_is_as_wide_as_the_one_before(tmp_path):
    data = record(tmp_path / "run", [[[1, 1, 1], [1, 1, 1]]] * 3)
    assert pack_histograms([data])[1][0]["runs"][0]["span"] == [0, 300]


def test_two_runs(tmp_path):
    first = record(tmp_path / "a", [[[1, 1, 1]]], sites=["weight/a"])
    second = record(tmp_path / "b", [[[1, 1, 1]]], sites=["weight/z"])
    made = pack_histograms([first, second])[1]
    assert [[run is not None for run in one["runs"]] for one in made] == [
        [True, False],
        [False, True],
    ]


def test_none(csv_run):
    assert pack_histograms([RunData.load(csv_run)]) == ([], [])


def test_all_empty(tmp_path):
    _, made = pack_histograms([record(tmp_path / "run", [[[0, 0, 0], [0, 0, 0]]])])
    assert made[0]["rows"] == [0, 1, 2]


def test_names_of_the_recorders_bins():
    edges = histogram_edges()
    names = bin_names(edges, len(edges) - 1)
    assert names[0] == "−2⁸"
    assert names[len(names) // 2] == "0"
    assert names[len(names) // 2 + 1] == "2⁻²⁴"
    assert names[-1] == "2⁸"


def test_bins_without_edges_are_counted():
    assert bin_names([], 2) == ["bin 1", "bin 2"]
