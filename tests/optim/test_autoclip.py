"""AutoClip against NumPy's percentile of the whole history."""

import math

import numpy as np
import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.optim import AutoClip


def apply(clipper, norms):
    return [float(clipper.coefficient(torch.tensor(norm))) * norm for norm in norms]


@pytest.mark.parametrize("percentile", [10, 50, 100])
def test_matches_the_paper(generator, percentile):
    norms = torch.rand(60, generator=generator).add(0.1).tolist()

    clipped = apply(AutoClip(percentile), norms)

    limits = [np.percentile(norms[: i + 1], percentile) for i in range(len(norms))]
    assert clipped == pytest.approx(np.minimum(norms, limits).tolist(), rel=1e-5)


def test_only_the_window_counts(generator):
    norms = torch.rand(50, generator=generator).add(0.1).tolist()

    clipped = apply(AutoClip(20, window=8), norms)

    limits = [np.percentile(norms[max(0, i - 7) : i + 1], 20) for i in range(len(norms))]
    assert clipped == pytest.approx(np.minimum(norms, limits).tolist(), rel=1e-5)


def test_the_first_norm_is_its_own_percentile():
    assert apply(AutoClip(), [3.0]) == [3.0]


def test_vanished_gradients_do_not_stop_the_run():
    assert apply(AutoClip(), [0.0] * 20 + [1.0]) == [0.0] * 20 + [1.0]


def test_a_state_of_another_window_is_refused():
    with pytest.raises(ConfigError, match=r"kept 10 norms, this one keeps 20.*window=10"):
        AutoClip(window=20).load_state_dict(AutoClip(window=10).state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {"percentile": 0},
        {"percentile": 101},
        {"percentile": math.nan},
        {"window": 0},
        {"window": 1.5},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        AutoClip(**settings)
