"""ZClip against the paper's formulas, written out in float64."""

import math
import statistics

import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.optim import ZClip


def reference(norms, *, alpha=0.97, threshold=2.5, warmup=25):
    """Return the clipped norms as the paper has them."""
    first = norms[:warmup]
    clipped = list(first)
    mean, variance = statistics.fmean(first), statistics.pvariance(first)
    for norm in norms[warmup:]:
        std = math.sqrt(variance)
        z = (norm - mean) / std
        kept = mean + threshold**2 / z * std if z > threshold else norm
        clipped.append(kept)
        mean = alpha * mean + (1 - alpha) * kept
        variance = alpha * variance + (1 - alpha) * (kept - mean) ** 2
    return clipped


def apply(clipper, norms):
    return [float(clipper.coefficient(torch.tensor(norm))) * norm for norm in norms]


def noisy(generator, count=200):
    return (1 + 0.1 * torch.randn(count, generator=generator)).abs().tolist()


def test_matches_the_paper(generator):
    norms = noisy(generator)  # no more than 25 outliers in a row, where we differ
    norms[60], norms[61], norms[120] = 40.0, 3.0, 1.6

    clipped = apply(ZClip(), norms)

    assert clipped == pytest.approx(reference(norms), rel=1e-4)
    assert sum(a < b * 0.99 for a, b in zip(clipped, norms, strict=True)) >= 3


@pytest.mark.parametrize(("alpha", "threshold", "warmup"), [(0.9, 2.0, 10), (0.99, 3.0, 50)])
def test_settings_mean_what_the_paper_says(generator, alpha, threshold, warmup):
    norms = noisy(generator)
    norms[100] = 9.0

    clipped = apply(ZClip(alpha, threshold, warmup), norms)

    expected = reference(norms, alpha=alpha, threshold=threshold, warmup=warmup)
    assert clipped == pytest.approx(expected, rel=1e-4)


def test_nothing_is_clipped_while_collecting():
    norms = [1.0] * 10 + [1000.0] + [1.0] * 14

    assert apply(ZClip(), norms) == norms


def test_a_bound_holds_while_collecting_too():
    clipped = apply(ZClip(max_norm=2.0), [1.0] * 10 + [1000.0])

    assert clipped[-1] == pytest.approx(2.0)


def test_a_norm_of_a_thousand_times_is_brought_back(generator):
    clipper = ZClip()
    apply(clipper, noisy(generator))

    (spike,) = apply(clipper, [1000.0])
    after = apply(clipper, [1.0] * 5)

    assert spike < 1.1
    assert after == [1.0] * 5


def test_a_lasting_change_of_level_is_accepted(generator):
    clipper = ZClip()
    apply(clipper, noisy(generator))
    doubled = [2 * norm for norm in noisy(generator)]

    levels = apply(clipper, doubled)

    assert max(levels[:25]) < 1.5  # each could still be an outlier
    changed = sum(a < b * 0.99 for a, b in zip(levels[25:], doubled[25:], strict=True))
    assert changed < 10


def test_a_burst_shorter_than_that_is_forgotten(generator):
    clipper = ZClip()
    apply(clipper, noisy(generator))

    for _ in range(5):
        assert max(apply(clipper, [2.0] * 24)) < 1.5
        assert apply(clipper, [1.0]) == [1.0]


def test_a_constant_norm_is_no_outlier():
    assert apply(ZClip(), [0.7] * 100) == pytest.approx([0.7] * 100)


def test_all_zero_gradients_do_no_harm():
    assert apply(ZClip(warmup_steps=2), [0.0] * 10 + [1.0]) == [0.0] * 10 + [1.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0},
        {"alpha": 1},
        {"alpha": math.nan},
        {"z_threshold": 0},
        {"z_threshold": math.inf},
        {"warmup_steps": 1},
        {"warmup_steps": 2.5},
        {"max_norm": -1},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ZClip(**settings)
