"""Two processes with gloo: the guard decides alike on all ranks, and brings all of them back."""

import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from trimtab import Stepper, attach

pytestmark = [pytest.mark.dist, pytest.mark.slow]

STEPS, FAULT_AT = 60, 45

FAULTS = {
    "none": [],
    "nan": [("skip", "bad-batch")],
    "labels": [("skip", "bad-batch")],
    "weight": [("rollback", "state-corrupted")],
    "rate": [("rollback", "rate-jump")],
}
"""Each with what the guard is to make of it."""


def make_model():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 1)
        )


def batch(rank, step):
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(32, 8, generator=generator)
    return x, x.sum(dim=1, keepdim=True) + 0.1 * torch.randn(32, 1, generator=generator)


def spoil(fault, rank, step, model, optimizer, x, y):
    """Do harm on rank 1 alone, or, with the learning rate, on both."""
    if step == FAULT_AT and fault == "rate":
        optimizer.param_groups[0]["lr"] *= 300
    if step == FAULT_AT and fault == "weight":
        p = list(model.parameters())[-2]  # (1, 32): sharded, rank 0 holds all of it
        local = p.to_local() if hasattr(p, "to_local") else p
        if local.numel() and (rank == 1 or local is not p):
            local.detach().view(-1)[0] = 1e5
    if step != FAULT_AT or rank != 1:
        return x, y
    if fault == "nan":
        return x * float("nan"), y
    if fault == "labels":
        return x, 300 * y.flip(0)
    return x, y


def train(rank, folder, kind, way):
    """Train with one fault after the other, in one pair of processes."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    states = {fault: train_with(fault, rank, kind, way) for fault in FAULTS}
    torch.save(states, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


def train_with(fault, rank, kind, way):
    torch.default_generator.manual_seed(rank)
    model = make_model()
    if kind == "ddp":
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    else:
        wrapped = fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guard = WAYS[way](wrapped, optimizer, fault, rank)
    weights = {
        n: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for n, p in model.named_parameters()
    }
    incidents = [
        (i.kind, i.step, i.detected, i.finding.name, i.lost_steps) for i in guard.incidents
    ]
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    return {"weights": weights, "buffers": buffers, "incidents": incidents}


def with_stepper(wrapped, optimizer, fault, rank):
    stepper = Stepper(wrapped, optimizer, schedule="constant", guard="spike")
    for step in range(1, STEPS + 1):
        x, y = spoil(fault, rank, step, wrapped, optimizer, *batch(rank, step))
        stepper.backward(lambda: nn.functional.mse_loss(wrapped(x), y))  # noqa: B023 # at once
        stepper.step()
    return stepper.guard


def with_attach(wrapped, optimizer, fault, rank):
    trim = attach(wrapped, optimizer, guard="spike", out=None, watch=False, judge=False)
    for step in range(1, STEPS + 1):
        x, y = spoil(fault, rank, step, wrapped, optimizer, *batch(rank, step))
        optimizer.zero_grad()
        trim.loss(lambda: nn.functional.mse_loss(wrapped(x), y)).backward()  # noqa: B023 # at once
        optimizer.step()
    trim.detach()
    return trim.guard


WAYS = {"stepper": with_stepper, "attach": with_attach}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("way", list(WAYS))
def test_ranks_act_alike(tmp_path, kind, way):
    mp.spawn(train, (str(tmp_path), kind, way), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for fault, incident in FAULTS.items():
        first, second = (states[fault] for states in ranks)
        assert first["incidents"] == second["incidents"], fault
        assert [(i[0], i[3]) for i in first["incidents"]] == incident, fault
        assert same(first["weights"], second["weights"]), fault
        assert all(b.isfinite().all() for b in first["buffers"].values()), fault
    for states in ranks:  # made again from a snapshot: as if it had never been
        assert same(states["weight"]["weights"], states["none"]["weights"])
        assert same(states["weight"]["buffers"], states["none"]["buffers"])
