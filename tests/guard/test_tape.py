import functools

import pytest
import torch

from trimtab.checkpoint import random_state
from trimtab.errors import ConfigError, StateError
from trimtab.guard import MicroStep, Tape, TapeStep, freeze


def step(number, *, floats=25, micro_steps=1, batch=True, random=None):
    micros = []
    for _ in range(micro_steps):
        x = torch.zeros(floats)
        micros.append(
            MicroStep(
                compute=freeze(functools.partial(torch.sum, x)),
                factor=1.0,
                weight=1.0,
                random=random,
                batch={"x": x} if batch else None,
            )
        )
    return TapeStep(
        number=number,
        micro_steps=micros,
        settings=[{"lr": 0.1}],
        divisor=1.0,
        loss=0.0,
        norm=0.0,
        skipped=False,
        flagged=False,
    )


def numbers(tape, since):
    steps = tape.since(since)
    return None if steps is None else [s.number for s in steps]


def filled(count, **options):
    tape = Tape(**options)
    for number in range(1, count + 1):
        tape.add(step(number))
    return tape


def test_steps_since_a_snapshot():
    tape = filled(5)
    assert numbers(tape, 0) == [1, 2, 3, 4, 5]
    assert numbers(tape, 3) == [4, 5]
    assert numbers(tape, 5) == []
    assert len(tape) == 5


def test_the_oldest_go_when_memory_is_full():
    tape = filled(5, max_bytes=350)
    assert tape.nbytes == 300
    assert numbers(tape, 2) == [3, 4, 5]
    assert numbers(tape, 1) is None


def test_the_oldest_go_when_there_are_too_many():
    tape = filled(5, max_steps=2)
    assert numbers(tape, 3) == [4, 5]
    assert numbers(tape, 2) is None


def test_a_step_that_is_too_large_loses_all():
    tape = filled(3, max_bytes=350)
    tape.add(step(4, floats=1000))
    assert (tape.nbytes, len(tape)) == (0, 0)
    assert numbers(tape, 3) is None
    assert numbers(tape, 4) == []


def test_a_gap_is_a_loss():
    tape = filled(2)
    tape.add(step(4))
    assert numbers(tape, 1) is None
    assert numbers(tape, 3) == [4]


def test_steps_before_are_given_up():
    tape = filled(5)
    tape.drop_before(4)
    assert numbers(tape, 3) == [4, 5]
    assert numbers(tape, 2) is None
    assert tape.nbytes == 200


def test_steps_after_have_never_been():
    tape = filled(5)
    tape.drop_after(3)
    assert numbers(tape, 1) == [2, 3]
    tape.add(step(4))
    assert numbers(tape, 1) == [2, 3, 4]
    assert tape.nbytes == 400


def test_a_loss_after_a_rollback_is_forgotten():
    tape = filled(5, max_steps=2)
    tape.drop_after(-1)
    tape.add(step(0))
    assert numbers(tape, -1) == [0]


def test_a_step_out_of_order_is_refused():
    tape = filled(5)
    with pytest.raises(StateError, match=r"^Step 3 cannot follow step 5 .* call drop_after\(\)"):
        tape.add(step(3))


@pytest.mark.parametrize(
    ("added", "nbytes"),
    [
        (step(1), 100),
        (step(1, micro_steps=3), 300),
        (step(1, batch=False), 100),  # found in the function
        (step(1, random=random_state()), 100 + 2**13),
    ],
)
def test_bytes_are_those_of_batches_and_random_states(added, nbytes):
    tape = Tape()
    tape.add(added)
    assert tape.nbytes == added.nbytes == nbytes


def test_one_tensor_in_several_places_counts_once():
    x = torch.zeros(25)
    added = step(1, micro_steps=2)
    for micro in added.micro_steps:
        micro.batch = [x, {"again": x}]
    tape = Tape()
    tape.add(added)
    assert tape.nbytes == 100


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {"max_steps": 0}])
def test_bounds_are_positive(options):
    with pytest.raises(ConfigError, match=r"must be positive, got .* To keep no tape, make none"):
        Tape(**options)
