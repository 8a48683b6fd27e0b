"""Two processes with gloo: a run whose replicas part is told, and no rank waits for another."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trimtab import Watch, attach
from trimtab.signals._replica_watch import AHEAD, ReplicaWatch, no_comparison

STEPS, EVERY = 12, 4
COLUMNS = ("replicas.parameter_difference", "replicas.buffer_difference")


def build(kind):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.5
    if kind == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        return fully_shard(model)
    return DistributedDataParallel(model)


def train(model, optimizer, rank, parts_at=None):
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        g = torch.Generator().manual_seed(10 * step + rank)
        model(torch.randn(4, 6, generator=g)).square().mean().backward()
        optimizer.step()
        if step == parts_at and rank == 1:
            with torch.no_grad():
                model.module[2].bias += 0.25


def watched(rank, kind, *, begins=1, every=2, parts_at=None, ends=2):
    """Train twice `STEPS`, attached from the first, the second or (3) no stretch on."""
    model = build(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    watch = Watch(parameters=2, modules=0, histograms=0, burst=0, replicas=every)
    trim = None
    for stretch in (1, 2):
        if stretch == begins:
            trim = attach(model, optimizer, clip=None, watch=watch, out=None)
        train(model, optimizer, rank, parts_at if stretch == 1 else None)
        if trim is not None and stretch == ends:
            trim.detach()
    return [[r.values.get(c, "absent") for c in COLUMNS] for r in trim.history] if trim else None


def run(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {
        "ddp": watched(rank, "ddp", parts_at=5),
        "fsdp2": watched(rank, "fsdp2"),
        "never": watched(rank, "ddp", every=0),
        # In each of these an exchange would never end.
        "later": watched(rank, "ddp", begins=1 + rank),
        "sooner": watched(rank, "ddp", every=1, ends=2 - rank),
        "alone": watched(rank, "ddp", begins=1 + 2 * rank),
    }
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch")
    mp.spawn(run, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.dist
@pytest.mark.slow
class TestTwoProcesses:
    def test_a_difference_is_told_at_the_next_comparison(self, results):
        first, second = ([row[0] for row in r["ddp"]] for r in results)
        due = [i for i, v in enumerate(first, 1) if v != "absent" and not math.isnan(v)]
        assert due == list(range(EVERY, 2 * STEPS + 1, EVERY))
        assert first[EVERY - 1] == 0
        assert all(first[i - 1] > 0.05 for i in due[1:])
        assert [first[i - 1] for i in due] == [second[i - 1] for i in due]

    def test_batch_norms_of_their_own_differ_in_health(self, results):
        compared = [row[1] for row in results[0]["ddp"]][EVERY - 1 :: EVERY]
        assert all(0.01 < v < 10 for v in compared)

    def test_other_records_have_no_number_and_other_steps_no_column(self, results):
        first = [row[0] for row in results[0]["ddp"]]
        assert math.isnan(first[0])
        assert math.isnan(first[1])
        assert first[2] == "absent"

    def test_a_sharded_model_has_buffers_alone(self, results):
        parameters, buffers = results[0]["fsdp2"][EVERY - 1]
        assert math.isnan(parameters)
        assert buffers > 0

    def test_never(self, results):
        assert all(v == "absent" or math.isnan(v) for row in results[0]["never"] for v in row)

    @pytest.mark.parametrize("case", ["later", "alone"])
    def test_no_rank_waits_for_one_that_does_not_come(self, results, case):
        assert len(results[0][case]) == 2 * STEPS
        assert all(v == "absent" or math.isnan(v) for row in results[0][case] for v in row)

    def test_a_rank_that_leaves_takes_its_word_back(self, results):
        compared = [row[0] for row in results[0]["sooner"]][1::2]
        assert 0 in compared[: STEPS // 2]
        assert all(math.isnan(v) for v in compared[STEPS // 2 :])


def test_one_process_compares_nothing():
    watch = ReplicaWatch(nn.Linear(2, 2), every=1)
    assert [watch.after_step(number) for number in range(1, 2 * AHEAD)] == [{}] * (2 * AHEAD - 1)
    watch.close()
    assert list(no_comparison()) == list(COLUMNS)
