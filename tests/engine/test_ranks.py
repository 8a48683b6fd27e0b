"""Two processes with gloo train what one process trains on all the data."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trimtab import Stepper

pytestmark = [pytest.mark.dist, pytest.mark.slow]

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)
SHARES = {0: [(0, 2), (2, 9), (9, 10)], 1: [(10, 11), (11, 20), (20, 24)]}
"""Rows of each rank's micro-batches: no two are equally long."""


def make_model():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 4))
        model.bias.zero_()
    return model


def loss_of(model, rows):
    return (model(X[slice(*rows)]) - Y[slice(*rows)]).square().mean()


def train(rank, folder, accumulate, precision, poison):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = make_model()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    stepper = Stepper(wrapped, optimizer, clip=0.5, accumulate=accumulate, precision=precision)
    norms = []
    for step in range(4):
        for rows in SHARES[rank]:
            bad = float("nan") if poison and rank == 1 and step == 1 else 1.0
            stepper.backward(
                lambda rows=rows, bad=bad: loss_of(wrapped, rows) * bad, weight=rows[1] - rows[0]
            )
            result = stepper.step()
        result = stepper.flush() if accumulate > len(SHARES[rank]) else result
        norms.append(result.grad_norm)
    state = {"model": model.state_dict(), "norms": norms, "skipped": stepper.skipped_steps}
    torch.save(state, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


def run_two(folder, *args):
    mp.spawn(train, (str(folder), *args), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("accumulate", [3, 5])
def test_unequal_micro_batches_on_two_ranks_equal_one_batch(tmp_path, accumulate):
    """A window of 5 is never full: flush() has to exchange what was kept local."""
    first, second = run_two(tmp_path, accumulate, "fp32", False)

    model = make_model()
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.05), clip=0.5)
    norms = []
    for _ in range(4):
        stepper.backward(lambda: loss_of(model, (0, 24)))
        norms.append(stepper.step().grad_norm)

    torch.testing.assert_close(first["model"], second["model"], rtol=0, atol=0)
    torch.testing.assert_close(first["model"], model.state_dict())
    assert first["norms"] == pytest.approx(norms, rel=1e-5)


def test_ranks_skip_together(tmp_path):
    first, second = run_two(tmp_path, 3, "fp32", True)
    assert first["skipped"] == second["skipped"] == 1
    torch.testing.assert_close(first["model"], second["model"], rtol=0, atol=0)
