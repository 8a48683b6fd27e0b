import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trimtab import ConfigError
from trimtab.checkpoint._ranks import Ranks, make_own_group


def test_alone_nothing_is_exchanged():
    ranks = Ranks()
    assert (ranks.rank, ranks.count) == (0, 1)
    assert ranks.all(lambda: 5) == [5]
    with pytest.raises(ZeroDivisionError):
        ranks.all(lambda: 1 / 0)


def attempt(ranks, work):
    try:
        return ranks.all(work)
    except Exception as error:  # noqa: BLE001 # what it is, is what is tested
        return type(error).__name__, str(error)


def fail_on(rank, error):
    def work():
        if rank == dist.get_rank():
            raise error
        return dist.get_rank()

    return work


def run(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    ranks = Ranks()
    results = [
        attempt(ranks, lambda: rank * 10),
        attempt(ranks, fail_on(1, OSError(28, "No space left on device"))),
        attempt(ranks, fail_on(0, ConfigError("odd"))),
        attempt(ranks, lambda: rank),  # nobody was left behind
    ]
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


@pytest.mark.dist
@pytest.mark.slow
def test_all_succeed_or_all_raise(tmp_path):
    mp.spawn(run, (str(tmp_path),), nprocs=2)
    zero, one = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert zero == [
        [0, 10],
        ("OSError", "[Errno 28] on rank 1: [Errno 28] No space left on device"),
        ("ConfigError", "odd"),
        [0, 1],
    ]
    assert one == [
        [0, 10],
        ("OSError", "[Errno 28] No space left on device"),
        ("StateError", "It failed on rank 0: odd"),
        [0, 1],
    ]


def lose(rank, folder):
    """Let rank 1 go while rank 0 works; what rank 0 says of it, with and without its own error."""
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    ranks = Ranks(make_own_group(None, timeout_s=30))
    ranks.all(lambda: None)
    if rank == 1:
        os._exit(0)
    results = [attempt(ranks, lambda: 0), attempt(ranks, fail_on(0, OSError(28, "No space left")))]
    torch.save(results, f"{folder}/lost.pt")
    os._exit(0)


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_that_has_gone_is_named_as_the_cause(tmp_path):
    mp.spawn(lose, (str(tmp_path),), nprocs=2)
    (kind, said), second = torch.load(tmp_path / "lost.pt")
    assert (kind, second[0]) == ("StateError", "StateError")
    assert said.startswith("Rank 0 of 2 has lost the others: one of them has died, or kept the")
    assert "GLHF" not in said
    assert "third_party" not in said
    assert second[1].endswith("Before that, this rank failed itself: [Errno 28] No space left")
