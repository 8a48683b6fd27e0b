"""Lengths in steps, tokens and shares of the run."""

import numpy as np
import pytest

from trimtab.optim._schedules import (
    warmup_cosine,
    wsd,
)


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [(0.1, 2), (0.26, 5), (1e-9, 1), (0.0, 0), (1, 1), (1.0, 20), (7.0, 7), (np.int64(3), 3)],
)
def test_warmup_in_steps_or_as_a_share(warmup, expected, make_optimizer):
    curve = warmup_cosine(make_optimizer(), warmup, 20).curve

    assert curve.warmup == expected
    assert type(curve.warmup) is int


def test_wsd_falls_over_the_last_fifth_by_default(make_optimizer):
    assert wsd(make_optimizer(), 10, 100).curve.decay == 20
    assert wsd(make_optimizer(), 90, 100).curve.decay == 10  # what the warm-up leaves
    assert wsd(make_optimizer(), 100, 100).curve.decay == 0
    assert wsd(make_optimizer(), 10, 100, 0.1).curve.decay == 10
    assert wsd(make_optimizer(), 10, 100, 35).curve.decay == 35


def test_gpt3_by_tokens(make_optimizer):
    curve = warmup_cosine(
        make_optimizer(), warmup_tokens=375e6, total_tokens=260e9, min_ratio=0.1
    ).curve

    assert (curve.warmup, curve.total) == (375_000_000, 260_000_000_000)
    assert curve.factor(187_500_000) == 0.5
    assert curve.factor(300_000_000_000) == 0.1
