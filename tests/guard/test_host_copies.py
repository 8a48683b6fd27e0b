import pytest
import torch

from trimtab.guard._host_copies import Copier, Pool, keys_of, storage_bytes

SHAPES = [(4,), (2, 3), (4,)]


def tensors(fill):
    return [torch.full(shape, float(fill)) for shape in SHAPES]


def test_given_back_memory_serves_again():
    pool = Pool()
    first = pool.lend(tensors(0), 10**6)
    pool.give_back(first, keys_of(tensors(0)))
    second = pool.lend(tensors(0), 10**6)
    assert {t.data_ptr() for t in first} == {t.data_ptr() for t in second}
    assert pool.nbytes == 14 * 4


def test_memory_that_fits_nothing_is_freed_before_the_bound_is_passed():
    pool = Pool()
    pool.give_back(pool.lend([torch.zeros(100)], 10**6), keys_of([torch.zeros(100)]))
    pool.lend([torch.zeros(50)], 600)
    assert pool.nbytes == 600
    pool.lend([torch.zeros(25)], 600)
    assert pool.nbytes == 300  # of the 100 nothing is left


def test_types_and_layouts_are_told_apart():
    pool = Pool()
    flat, wide = torch.zeros(2, 3), torch.zeros(3, 2).t()
    pool.give_back(pool.lend([flat, flat.half()], 10**6), keys_of([flat, flat.half()]))
    lent = pool.lend([wide, flat.bfloat16()], 10**6)
    assert lent[0].stride() == wide.stride()
    assert lent[1].dtype == torch.bfloat16
    assert pool.nbytes == 24 + 12 + 24 + 12


def test_copies_are_bit_for_bit_and_independent():
    sources = [torch.tensor([float("nan"), -0.0]), torch.arange(3), torch.ones(2).bfloat16()]
    targets = Pool().lend(sources, 10**6)
    copier = Copier()
    assert copier.copy(sources, targets, [True, False, True]) == []
    copier.before_update()
    sources[1].zero_()
    assert targets[0].view(torch.int32).tolist() == sources[0].view(torch.int32).tolist()
    assert targets[1].tolist() == [0, 1, 2]
    assert targets[2].dtype == torch.bfloat16


def test_bytes_of_pageable_memory_are_not_rounded():
    assert storage_bytes(torch.zeros(5)) == 20
    assert storage_bytes(torch.zeros(0)) == 0


def test_every_step_of_an_optimizer_waits():
    optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1) for _ in range(2)]
    copier, waits = Copier([*optimizers, object()]), []
    copier.before_update = lambda: waits.append(1)
    for _ in range(2):
        copier._watch_updates()
    for optimizer in optimizers:
        optimizer.step()
    assert len(waits) == 2


class Event:
    def __init__(self, ms, *, done):
        self.ms, self.done = ms, done

    def query(self):
        return self.done

    def elapsed_time(self, end):
        return end.ms - self.ms


def test_time_beside_the_step_is_that_of_finished_copies():
    copier = Copier()
    slow = Event(9000, done=False)
    copier._timed = [(Event(0, done=True), Event(500, done=True)), (Event(0, done=True), slow)]
    assert copier.seconds_beside() == 0.5
    assert copier.seconds_beside() == 0
    slow.done = True
    assert copier.seconds_beside() == 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_update_right_after_the_copy_does_not_reach_it():
    source = torch.ones(2**26, device="cuda")
    targets = Pool().lend([source], 2**30)
    assert targets[0].is_pinned()
    copier = Copier()
    for value in range(5):
        source.fill_(value)
        events = copier.copy([source], targets, [True])
        copier.before_update()
        source.fill_(-1)
        for event in events:
            event.synchronize()
        assert targets[0].eq(value).all()
