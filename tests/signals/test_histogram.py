import numpy as np
import pytest
import torch

from trimtab.signals import histogram_edges
from trimtab.signals._gauges import ABSENT, CHUNK
from trimtab.signals._histogram import HIGHEST, LOWEST, NUM_BINS, histograms


def reference(values):
    """numpy on the given edges; of the negative half the mirror image, whose edges lie outwards."""
    edges = np.array(histogram_edges())
    outward = edges[len(edges) // 2 :].copy()
    outward[-1] = np.inf
    positive, _ = np.histogram(values[values > 0], np.append(0, outward))
    negative, _ = np.histogram(-values[values < 0], np.append(0, outward))
    zero = positive[0] + negative[0] + (values == 0).sum()
    return np.concatenate([negative[:0:-1], [zero], positive[1:]])


def test_edges():
    edges = histogram_edges()
    assert len(edges) == NUM_BINS + 1
    assert edges == sorted(edges)
    assert edges[-1] == 2.0 ** (HIGHEST + 1)
    assert edges[NUM_BINS // 2 : NUM_BINS // 2 + 2] == [-(2.0**LOWEST), 2.0**LOWEST]


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e4])
def test_equals_numpy(scale, generator):
    x = torch.randn(CHUNK * 2 + 3, 500, generator=generator) * scale
    x[:, ::7] = 0
    for row, counts in zip(x.numpy(), histograms(x).numpy(), strict=True):
        np.testing.assert_array_equal(counts, reference(row))


def test_at_the_edges_and_just_below():
    powers = [2.0**e for e in range(LOWEST - 1, HIGHEST + 3)]
    up = np.nextafter(np.float32(powers), np.float32(np.inf))
    down = np.nextafter(np.float32(powers), np.float32(0))
    x = np.concatenate([powers, up, down]).astype(np.float32)
    x = np.concatenate([x, -x, [0.0, -0.0, 1e-45, 3e38]]).astype(np.float32)
    counts = histograms(torch.tensor(x)[None])[0]
    np.testing.assert_array_equal(counts, reference(x))


def test_what_is_absent_or_not_finite_is_left_out():
    x = torch.tensor([[1.0, torch.nan, torch.inf, -torch.inf, ABSENT, ABSENT]])
    assert histograms(x).sum() == 1
    assert histograms(torch.full((2, 4), ABSENT)).sum() == 0
    assert histograms(torch.zeros(0, 4)).shape == (0, NUM_BINS)
