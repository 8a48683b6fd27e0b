"""The default policy's statistics against their formulas."""

import math

import pytest
import torch

from trimtab.guard._spike_floats import OnHost
from trimtab.guard._spike_rule import SpikeRule, empty_memory

RULE = SpikeRule()


def host():
    return OnHost(RULE, empty_memory(RULE))


def series(generator, number):
    noise = torch.randn(number, 2, generator=generator).tolist()
    return [(2 + 0.1 * a, math.exp(0.2 * b)) for a, b in noise]


def reference(values, z):
    """Return level, spread times z and 1.8 times the highest, on the scale that is judged."""
    level, spread, highest = values[0], 0.0, 0.0
    for i, value in enumerate(values[1:], start=2):
        height = value - level
        level += max(1 / i, 1 / 16) * height if i <= 129 else height / 16
        spread += max(1 / i, 1 / 64) * (math.sqrt(math.pi / 2) * abs(height) - spread)
        highest = max(highest * (1 - 1 / 700), height)
    return level, z * spread, 1.8 * highest


@pytest.mark.parametrize("number", [5, 40, 400])
def test_statistics_of_a_sound_run(generator, number):
    steps, policy = series(generator, number), host()
    for step in steps:
        assert policy.judge(*step) is False

    unit = 0.1 * steps[0][0]
    scaled = [
        [math.asinh(loss / unit) for loss, _ in steps],
        [math.log(2 * norm / 1e-12) for _, norm in steps],
    ]
    for signal, values in enumerate(scaled):
        found = (policy.level[signal], policy.threshold[signal], policy.reach[signal])
        assert found == pytest.approx(reference(values, RULE.z[signal]), rel=1e-4)


def test_the_spread_is_the_standard_deviation_of_normal_values(generator):
    policy = host()
    for step in series(generator, 2000):
        policy.judge(*step)

    assert policy.threshold[1] / RULE.norm_z == pytest.approx(0.2, rel=0.25)


def test_a_limit_is_the_greatest_of_threshold_reach_and_least():
    policy = host()

    policy.threshold, policy.reach = [0.01, 1.0], [0.0, 3.0]

    assert policy.limit(0) == pytest.approx(6 * 0.02)
    assert policy.limit(1) == 3.0


def test_flagged_values_change_no_statistics(generator):
    policy = host()
    for step in series(generator, 100):
        policy.judge(*step)
    before = (list(policy.level), list(policy.threshold), list(policy.reach))

    assert policy.judge(2.0, 100.0)

    assert (policy.level, policy.threshold, policy.reach) == before
    assert (policy.weight, policy.row, policy.total) == (100, 1, 1)


def test_accepted_steps_outweigh_a_flagged_one(generator):
    policy = host()
    for step in [*series(generator, 99), (2.0, 100.0), *series(generator, 99)]:
        policy.judge(*step)
    assert (policy.weight, policy.row, policy.total) == (1, 0, 1)

    for step in series(generator, 4):
        policy.judge(*step)

    assert (policy.weight, policy.row, policy.total) == (0, 0, 0)


def test_a_high_value_counts_at_most_five_deviations(generator):
    policy = host()
    for step in series(generator, 200):
        policy.judge(*step)
    spread = policy.threshold[1] / RULE.norm_z
    policy.granted[1] = policy.reach[1] = 100.0

    assert not policy.judge(2.0, 1e9)

    after = spread + (5 * max(RULE.norm_z * spread, 0.25) - spread * RULE.norm_z) / 64 / RULE.norm_z
    assert policy.threshold[1] / RULE.norm_z == pytest.approx(after, rel=1e-6)


def test_accepted_values_lift_the_reach_to_three_thresholds_at_most(generator):
    policy = host()
    for step in series(generator, 200):
        policy.judge(*step)
    policy.reach[1], threshold, level = 100.0, policy.threshold[1], policy.level[1]

    assert not policy.judge(2.0, 0.5e-12 * math.exp(level + 10))

    assert policy.reach[1] == pytest.approx(100 * (1 - 1 / 700))
    policy.reach[1] = 0.0
    assert not policy.judge(2.0, 0.5e-12 * math.exp(policy.level[1] + threshold * 0.99))
    assert policy.reach[1] == pytest.approx(1.8 * threshold * 0.99, rel=0.2)
