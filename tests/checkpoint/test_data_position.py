"""A shuffled epoch goes on where it stopped, with torchdata's StatefulDataLoader."""

from itertools import chain, islice

import pytest
import torch
from torch.utils.data import TensorDataset

from trimtab.checkpoint import load_latest, random_state, restore_random_state, save_checkpoint

stateful = pytest.importorskip("torchdata.stateful_dataloader", exc_type=ImportError)


def make_loader(num_workers, seed):
    return stateful.StatefulDataLoader(
        TensorDataset(torch.arange(20)),
        batch_size=3,
        shuffle=True,
        num_workers=num_workers,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
    )


def take(batches, count=None):
    return [batch.tolist() for (batch,) in islice(batches, count)]


# torchdata 0.11 calls what torch 2.13 calls deprecated.
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("seed", [3, None], ids=["own", "global"])
def test_the_same_batches_follow(tmp_path, num_workers, seed):
    with torch.random.fork_rng():
        loader = make_loader(num_workers, seed)
        batches = iter(loader)
        seen = take(batches, 2)
        state = {"data": loader.state_dict(), "random": random_state()}
        save_checkpoint(tmp_path, 2, model={}, state=state)
        rest, next_epoch = take(batches), take(loader)

        loader = make_loader(num_workers, None if seed is None else seed + 1)
        state = load_latest(tmp_path)[2]
        loader.load_state_dict(state["data"])
        batches = iter(loader)
        restore_random_state(state["random"])
        assert take(batches) == rest
        if seed is None:
            assert take(loader) == next_epoch
    assert sorted(chain(*seen, *rest)) == list(range(20))
    assert sorted(chain(*next_epoch)) == list(range(20))
