"""OLMo's rule against its formula in float64."""

import math
import statistics

import pytest
import torch

from trimtab.errors import ConfigError
from trimtab.guard._olmo import Olmo


def reference(steps, *, window=128, sigma_factor=6.0):
    """Return the flags as OLMo-core computes them: outliers enter the window too."""
    flags = []
    for i in range(len(steps)):
        before = steps[max(0, i - window) : i]
        far = False
        if len(before) + 1 >= window // 2:
            for which in (0, 1):
                values = [step[which] for step in before]
                std = statistics.stdev(values)
                far |= steps[i][which] - statistics.fmean(values) > sigma_factor * std
        flags.append(float(far))
    return flags


def judge(policy, steps):
    return [policy.judge(torch.tensor(a), torch.tensor(b)).item() for a, b in steps]


def steps_of(generator, number):
    noise = torch.randn(number, 2, generator=generator)
    return [(2 + 0.1 * a, math.exp(0.1 * b)) for a, b in noise.tolist()]


@pytest.mark.parametrize(("window", "sigma_factor"), [(128, 6.0), (32, 4.0)])
def test_flags_what_the_published_rule_flags(generator, window, sigma_factor):
    steps = steps_of(generator, 500)
    for at in (20, 90, 91, 92, 93, 94, 200, 210, 350):
        steps[at] = (steps[at][0] * 4, steps[at][1] * 4)
    steps[300] = (2.0, 1000.0)

    flags = judge(Olmo(window=window, sigma_factor=sigma_factor), steps)

    assert flags == reference(steps, window=window, sigma_factor=sigma_factor)
    assert flags[300] == 1
    assert 4 <= sum(flags) < 20


def test_the_end_of_a_burst_is_hidden_by_its_beginning(generator):
    """The published rule's weakness, which is why it is not the default."""
    policy = Olmo()
    judge(policy, steps_of(generator, 128))

    flags = judge(policy, [(8.0, 4.0)] * 5)

    assert flags == [1, 1, 1, 1, 0]


def test_judges_from_the_64th_step(generator):
    steps = steps_of(generator, 63)

    assert judge(Olmo(), [*steps[:62], (100.0, 100.0)])[-1] == 0
    assert judge(Olmo(), [*steps, (100.0, 100.0)])[-1] == 1


def test_constant_values_are_no_outliers():
    assert judge(Olmo(), [(0.7, 0.3)] * 300) == [0] * 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 3}, "window must be a whole number of at least 4, got 3."),
        ({"window": True}, "window must be a whole number of at least 4, got True."),
        ({"sigma_factor": 0}, "sigma_factor must be finite and positive, got 0."),
        ({"sigma_factor": math.nan}, "sigma_factor must be finite and positive, got nan."),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        Olmo(**settings)

    assert str(error.value) == message
