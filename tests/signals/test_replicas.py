"""Two processes with gloo: what differs between replicas is named, and nothing in health."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trimtab.signals import ReplicaDifference, replica_differences
from trimtab.signals._replicas import Checksums, _checksum, largest_differences

GAP = 0.25


def make_model():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g) + 1
    return model


@torch.no_grad()
def spoil(model, kind):
    """Change what a rank of its own must not change, and a shard where there are shards."""
    if kind == "hsdp":
        for p in model.parameters():
            p.to_local().view(-1)[0] += GAP
        return
    model[1].running_mean[3] = 0.5
    if kind == "fsdp2":
        for p in model.parameters():
            p.to_local().fill_(7)
        return
    model[2].bias[1] += GAP
    model[1].num_batches_tracked += 1
    model[0].weight[2, 2] = math.nan


def wrap(model, kind):
    if kind == "ddp":
        return DistributedDataParallel(model, broadcast_buffers=False)
    if kind == "plain":
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    shape = {"fsdp2": (2,), "hsdp": (2, 1)}[kind]
    names = ("replicate", "shard")[-len(shape) :]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def run(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {}
    for kind in ("plain", "ddp", "fsdp2", "hsdp"):
        model = make_model()
        called = wrap(model, kind)
        healthy = replica_differences(called)
        if rank == 1:
            spoil(model, kind)
        results[kind] = healthy, replica_differences(called)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    mp.spawn(run, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.dist
@pytest.mark.slow
class TestTwoProcesses:
    def test_all_ranks_say_the_same(self, results):
        assert results[0] == results[1]

    @pytest.mark.parametrize("kind", ["plain", "ddp", "fsdp2", "hsdp"])
    def test_in_health_nothing_differs(self, results, kind):
        assert results[0][kind][0] == []

    @pytest.mark.parametrize("kind", ["plain", "ddp"])
    def test_what_differs_is_named(self, results, kind):
        found = {d.name: d for d in results[0][kind][1]}
        assert list(found) == ["0.weight", "2.bias", "1.running_mean", "1.num_batches_tracked"]
        assert [d.kind for d in found.values()] == ["parameter", "parameter", "buffer", "buffer"]
        assert all(d.ranks == (1,) for d in found.values())
        assert math.isinf(found["0.weight"].difference)
        norm = make_model()[2].bias.norm().item()
        assert found["2.bias"].difference == pytest.approx(GAP / norm, rel=0.3)

    def test_shards_are_not_compared_but_buffers_are(self, results):
        assert [(d.name, d.ranks) for d in results[0]["fsdp2"][1]] == [("1.running_mean", (1,))]

    def test_shards_of_replicas_are(self, results):
        names = [name for name, _ in make_model().named_parameters()]
        assert [d.name for d in results[0]["hsdp"][1]] == names


def checksums(rows, kinds=("parameter",)):
    values = torch.stack([torch.stack([_checksum(t) for t in row]) for row in rows])
    group = [list(range(len(rows)))]
    return Checksums(
        names=[str(i) for i in range(len(rows[0]))],
        kinds=list(kinds),
        numel=[t.numel() for t in rows[0]],
        ranks=list(range(len(rows))),
        peers=[group] * len(rows[0]),
        values=values,
    )


class TestDifference:
    @pytest.mark.parametrize("size", [1e-5, 1e-2])
    def test_is_about_that_of_the_tensors(self, size, generator):
        w = torch.randn(4000, generator=generator)
        other = w + size * torch.randn(4000, generator=generator)
        found = largest_differences(checksums([[w], [other]]))
        assert size / 5 < float(found["parameter"]) < size * 5
        assert found["buffer"].isnan()

    def test_one_step_of_float32_in_one_weight_is_found(self, generator):
        w = torch.randn(10_000, generator=generator)
        other = w.clone()
        other[77] = torch.nextafter(w[77], torch.tensor(10.0))
        assert largest_differences(checksums([[w], [other]]))["parameter"] > 0

    def test_two_swapped_neighbours_are_found(self, generator):
        w = torch.randn(64, generator=generator)
        other = w.clone()
        other[[4, 5]] = w[[5, 4]]
        assert largest_differences(checksums([[w], [other]]))["parameter"] > 0

    def test_the_order_of_additions_is_no_difference(self, generator):
        w = torch.randn(100_000, generator=generator)
        sums = checksums([[w], [w]])
        sums.values[1, 0, 0] = sum(float(v) for v in w[::2])
        assert largest_differences(sums)["parameter"] == 0

    def test_the_same_nan_everywhere_is_none(self):
        w = torch.tensor([1.0, math.nan])
        assert largest_differences(checksums([[w], [w]]))["parameter"] == 0

    def test_nothing_is_read_back(self, generator, no_host_sync):
        w = torch.randn(64, generator=generator)
        sums = checksums([[w, w], [w, w + 1]], ("parameter", "buffer"))
        with no_host_sync():
            found = largest_differences(sums)
        assert found["parameter"] == 0
        assert found["buffer"] > 0.1


def test_without_processes_there_are_no_replicas():
    assert replica_differences(make_model()) == []


def test_a_difference_says_where():
    found = ReplicaDifference(name="a", kind="buffer", ranks=(1,), difference=0.5)
    assert (found.name, found.ranks) == ("a", (1,))
