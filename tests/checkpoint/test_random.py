import json
import random

import numpy as np
import pytest
import torch

from trimtab.checkpoint import random_state, restore_random_state, seeded
from trimtab.checkpoint._tree import flatten, unflatten


@pytest.fixture(autouse=True)
def untouched():
    """Leave the random states of other tests alone."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


def draws():
    """Draw from every generator; a single normal number leaves a second one waiting in two."""
    normal = random.gauss(), np.random.normal()  # noqa: NPY002
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random(), normal  # noqa: NPY002


def through_json(state):
    structure, tensors = flatten(state)
    return unflatten(json.loads(json.dumps(structure)), tensors)


@pytest.mark.parametrize("draws_before", [0, 1])
def test_the_same_numbers_follow(draws_before):
    for _ in range(draws_before):
        draws()
    state = through_json(random_state())
    first = draws()
    assert draws() != first
    restore_random_state(state)
    assert draws() == first


def test_of_trimtab_0_1_it_holds_torch_alone():
    others = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    state = {"cpu": torch.get_rng_state()}
    first = torch.rand(2).tolist()
    restore_random_state(state)
    assert torch.rand(2).tolist() == first
    assert (np.random.get_state()[1].tolist(), random.getstate()) == others  # noqa: NPY002


def test_devices_that_are_not_here_are_passed_over():
    restore_random_state(random_state() | {"cuda7": torch.zeros(16, dtype=torch.uint8)})


def test_another_bit_generator_of_numpy():
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        state = through_json(random_state())
        first = draws()
        restore_random_state(state)
        assert draws() == first
    finally:
        np.random.set_bit_generator(before)


def test_seeded_is_the_same_each_time_and_leaves_no_trace():
    expected = random_state()
    with seeded(7):
        one = draws()
    with seeded(7):
        assert draws() == one
    with seeded(-8):
        assert draws() != one
    assert str(random_state()) == str(expected)


def test_seeded_leaves_no_trace_of_a_failure():
    def fail():
        with seeded(7):
            draws()
            raise KeyError

    expected = random_state()
    with pytest.raises(KeyError):
        fail()
    assert str(random_state()) == str(expected)
    after = draws()
    restore_random_state(expected)
    assert draws() == after
