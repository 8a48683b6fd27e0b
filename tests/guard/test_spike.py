"""The default policy on sound runs and on faults put into them."""

import math

import pytest
import torch

from trimtab.guard._policy import Limits
from trimtab.guard._spike import Spike

both_ways = pytest.mark.parametrize("at_once", [True, False], ids=["host", "device"])


@pytest.fixture
def steps_of(generator):
    """Losses and norms with noise about a level, `(loss, norm)` each."""

    def make(number, loss=2.0, norm=1.0, noise=0.05):
        noise = torch.randn(number, 2, generator=generator) * torch.tensor([noise, 3 * noise])
        return [(loss * (1 + a), norm * math.exp(b)) for a, b in noise.tolist()]

    return make


def judge(policy, steps):
    flags = []
    for loss, norm in steps:
        known = None if loss is None else torch.tensor(loss)
        flags.append(int(policy.judge(known, torch.tensor(norm)).item()))
    return flags


@both_ways
def test_one_spike_makes_no_room_for_those_at_half_its_size(steps_of, at_once):
    policy = Spike(at_once=at_once)
    assert judge(policy, steps_of(200)) == [0] * 200
    assert judge(policy, [(2000.0, 1000.0)]) == [1]

    flags = []
    for _ in range(50):
        flags += judge(policy, [(1000.0, 500.0), *steps_of(1)])[:1]

    assert flags[:14] == [1] * 14


@both_ways
@pytest.mark.parametrize("which", ["loss", "norm"])
def test_a_burst_is_flagged_to_the_last(steps_of, at_once, which):
    policy = Spike(at_once=at_once)
    judge(policy, steps_of(200))
    burst = steps_of(5, **{which: 8.0})

    assert judge(policy, [*burst, *steps_of(100)]) == [1] * 5 + [0] * 100


@both_ways
def test_a_smaller_outlier_right_after_a_large_one_is_flagged(steps_of, at_once):
    policy = Spike(at_once=at_once)
    judge(policy, steps_of(200))

    assert judge(policy, [(2000.0, 1000.0), (3.5, 3.0)]) == [1, 1]


@both_ways
def test_low_values_are_no_outliers(steps_of, at_once):
    policy = Spike(at_once=at_once)
    judge(policy, steps_of(200))

    low = [(0.01, 1e-6), (2.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    assert judge(policy, [*low, *steps_of(50)]) == [0] * 54
    assert judge(policy, [(20.0, 30.0)]) == [1]


@both_ways
def test_a_lasting_new_level_is_accepted(steps_of, at_once):
    policy = Spike(at_once=at_once)
    judge(policy, steps_of(200))

    flags = judge(policy, steps_of(100, loss=8.0, norm=4.0))

    assert flags == [1] * 16 + [0] * 84
    limits = policy.limits()
    assert limits.loss_level == pytest.approx(8, rel=0.1)
    assert limits.norm_level == pytest.approx(4, rel=0.2)
    assert judge(policy, [(20.0, 4.0), (8.0, 40.0)]) == [1, 1]


@both_ways
def test_patience_is_the_number_of_steps_that_make_a_level(steps_of, at_once):
    policy = Spike(patience=8, at_once=at_once)
    judge(policy, steps_of(200))

    assert judge(policy, steps_of(20, loss=8.0, norm=4.0)) == [1] * 8 + [0] * 12


@both_ways
def test_values_that_do_not_agree_are_no_new_level(steps_of, at_once):
    policy = Spike(at_once=at_once)
    judge(policy, steps_of(200))
    apart = [(2.0, 10.0 if i % 2 else 1e6) for i in range(40)]

    assert judge(policy, apart) == [1] * 40


@both_ways
def test_what_is_frequent_is_no_outlier(steps_of, at_once):
    """Every 20th batch is of another kind; it must not be left out for ever."""
    policy = Spike(at_once=at_once)
    flags = []
    for _ in range(60):
        flags += judge(policy, [*steps_of(19), *steps_of(1, norm=100.0)])[-1:]

    assert 10 < sum(flags[:24]) <= 24
    assert flags[24:] == [0] * 36
    assert judge(policy, [(2000.0, 1000.0)]) == [1]


@both_ways
def test_what_is_rare_is_not_accepted(steps_of, at_once):
    policy = Spike(at_once=at_once)
    flags = []
    for _ in range(8):
        flags += judge(policy, [*steps_of(149), (4.0, 5.0)])[-1:]

    assert flags == [1] * 8


@both_ways
def test_a_loss_that_falls_and_a_norm_that_grows_are_sound(steps_of, at_once):
    steps = [
        (loss * (0.05 + math.exp(-i / 60)), norm * min(i + 1, 100) / 100)
        for i, (loss, norm) in enumerate(steps_of(500))
    ]

    assert judge(Spike(at_once=at_once), steps) == [0] * 500


@both_ways
def test_growth_without_end_is_flagged(steps_of, at_once):
    policy = Spike(at_once=at_once)
    judge(policy, steps_of(200))

    flags = judge(policy, [(2 * 1.5**i, 1.5**i) for i in range(12)])

    assert flags[6:] == [1] * 6


@both_ways
def test_an_outlier_before_judging_does_not_blind(steps_of, at_once):
    policy = Spike(at_once=at_once)
    steps = steps_of(200)
    steps[10] = (2000.0, 1000.0)

    assert judge(policy, steps) == [0] * 200
    assert policy.limits().norm < 10
    assert judge(policy, [(2000.0, 1000.0), (2.0, 10.0)]) == [1, 1]


@both_ways
def test_judges_after_its_history(steps_of, at_once):
    policy = Spike(min_history=10, at_once=at_once)

    assert judge(policy, [*steps_of(9), (2.0, 1000.0)])[-1] == 0
    assert judge(policy.fresh(), [*steps_of(10), (2.0, 1000.0)])[-1] == 1


@both_ways
def test_losses_below_zero_are_judged(steps_of, at_once):
    policy = Spike(at_once=at_once)
    steps = steps_of(200, loss=-3.0)

    assert judge(policy, steps) == [0] * 200
    assert judge(policy, [(-1.0, 1.0), (5.0, 1.0)]) == [1, 1]


@both_ways
def test_a_loss_that_crosses_zero_is_left_to_the_norm(generator, at_once):
    policy = Spike(at_once=at_once)
    noise = torch.randn(400, 2, generator=generator).tolist()

    assert judge(policy, [(0.05 * a, math.exp(0.15 * b)) for a, b in noise]) == [0] * 400
    assert judge(policy, [(50.0, 1000.0)]) == [1]


@both_ways
def test_constant_and_zero_values_are_sound(at_once):
    assert judge(Spike(at_once=at_once), [(0.7, 0.3)] * 200) == [0] * 200
    assert judge(Spike(at_once=at_once), [(0.0, 0.0)] * 200) == [0] * 200


@both_ways
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_the_unit_of_the_loss_does_not_matter(steps_of, size, at_once):
    steps = [*steps_of(200), (8.0, 1.0), *steps_of(50), (3.9, 1.0)]
    if size < 1e-12:
        steps = [(loss, norm * 1e-6) for loss, norm in steps]
        size = 1e-6

    flags = judge(Spike(at_once=at_once), [(loss * size, norm) for loss, norm in steps])

    assert [i for i, flag in enumerate(flags) if flag] == [200, 251]


@both_ways
def test_the_largest_of_numbers_is_flagged_and_does_no_harm(steps_of, at_once):
    policy = Spike(at_once=at_once)
    judge(policy, steps_of(200))

    assert judge(policy, [(3e38, 3e38), *steps_of(50)]) == [1] + [0] * 50
    assert policy.limits().loss < 4


@both_ways
def test_a_loss_that_becomes_known_later_is_judged_after_its_own_history(steps_of, at_once):
    policy = Spike(at_once=at_once)
    judge(policy, [(None, norm) for _, norm in steps_of(300)])

    assert judge(policy, [*steps_of(31), (2000.0, 1.0)]) == [0] * 32
    policy = policy.fresh()
    judge(policy, [(None, norm) for _, norm in steps_of(300)])
    assert judge(policy, [*steps_of(200), (2000.0, 1.0)]) == [0] * 200 + [1]


@both_ways
def test_first_steps_that_overflow_are_passed_over(steps_of, at_once):
    policy = Spike(at_once=at_once)
    judge(policy, [(2.0, math.inf)] * 20)

    assert judge(policy, [*steps_of(200), (2.0, 100.0)]) == [0] * 200 + [1]


def test_limits_are_in_units_of_loss_and_norm(steps_of):
    policy = Spike()
    assert repr(policy.limits()) == repr(Limits())
    judge(policy, steps_of(200))

    limits = policy.limits()

    assert limits.loss_level == pytest.approx(2.0, rel=0.03)
    assert limits.norm_level == pytest.approx(1.0, rel=0.1)
    assert 2.3 < limits.loss < 3.0  # a deviation is 0.1
    assert 1.7 < limits.norm < 4.0  # 0.15 in logarithms


def test_a_state_goes_from_the_host_to_a_device_and_back(steps_of):
    steps = [*steps_of(60), (9.0, 9.0), *steps_of(60), (9.0, 9.0)]
    host, mixed = Spike(), Spike()
    flags = judge(host, steps)

    found = judge(mixed, steps[:50])
    for part, at_once in ((steps[50:90], False), (steps[90:], True)):
        other = Spike(at_once=at_once)
        other.load_state_dict(mixed.state_dict())
        mixed = other
        found += judge(mixed, part)

    assert found == flags
    assert [i for i, flag in enumerate(flags) if flag] == [60, 121]


def test_says_what_it_is():
    assert repr(Spike(loss_z=7.5)) == "Spike(loss_z=7.5, norm_z=5)"
