import copy
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from trimtab.guard import BufferKeeper

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
BAD = torch.full_like(X, float("nan"))
LARGE = 2**20 // 4


class Queue(nn.Module):
    """Buffers of all sorts: replaced by another tensor, shared, large, whole numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool), persistent=False)
        self.register_buffer("bank", torch.zeros(LARGE))
        self.register_buffer("steady", torch.ones(LARGE))
        self.register_buffer("none", None)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.count += 1
        self.flags[int(self.count) % 3] = True
        self.bank[int(self.count) % LARGE] = x.detach().sum()
        return x


def make_model():
    return nn.Sequential(
        Queue(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=None)
    )


def values(model):
    return {n: b.detach().clone() for n, b in model.named_buffers()}


def assert_same(model, before):
    now = values(model)
    assert now.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(now[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


SKIPS = {"bool": True, "float": torch.tensor(1.0), "whole": torch.tensor([1])}
GOES = {"bool": False, "float": torch.tensor(0.0), "whole": torch.tensor([0])}


@pytest.mark.parametrize("kind", SKIPS)
def test_a_skipped_step_leaves_no_buffer_touched(kind):
    model = make_model()
    keeper = BufferKeeper(model)
    for _ in range(3):
        model(X)
        keeper.put_back(GOES[kind])
        keeper.renew()
        before = values(model)
        for x in (X, BAD):  # two micro-batches of one step
            model(x)
        assert model[2].running_mean.isnan().all()
        keeper.put_back(SKIPS[kind])
        keeper.renew()
        assert_same(model, before)


@pytest.mark.parametrize("kind", GOES)
def test_a_step_that_is_made_keeps_what_it_wrote(kind):
    model = make_model()
    keeper = BufferKeeper(model)
    plain = copy.deepcopy(model)
    for _ in range(3):
        for x in (X, X * 2):
            model(x)
            plain(x)
        keeper.put_back(GOES[kind])
        keeper.renew()
        assert_same(model, values(plain))


def test_a_nan_in_what_is_not_taken_does_no_harm():
    model = nn.BatchNorm1d(4)
    keeper = BufferKeeper(model)
    model(X)
    before = values(model)
    keeper.renew()
    model(BAD)
    keeper.put_back(torch.tensor(1.0))
    assert_same(model, before)
    with torch.no_grad():
        model.running_mean.fill_(float("nan"))
    keeper.renew()
    model(X)
    model.running_mean.fill_(3)
    keeper.put_back(torch.tensor(0.0))
    assert model.running_mean.tolist() == [3] * 4


def test_nothing_waits_for_the_device(no_host_sync):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    keeper = BufferKeeper(model)
    skip = torch.tensor(1.0)
    model(X)
    with no_host_sync():
        keeper.renew()
        model(BAD)
        keeper.put_back(skip)
    assert model[0].running_mean.isfinite().all()


def test_only_training_is_looked_at():
    """What is changed by hand, or in evaluation, before the step begins is not undone."""
    model = nn.BatchNorm1d(4)
    keeper = BufferKeeper(model)
    model(X)
    keeper.renew()
    model.eval()
    model(X)
    model.train()
    model.running_mean.fill_(7)
    model(BAD)
    keeper.put_back(True)
    assert model.running_mean.tolist() == [7] * 4


def test_without_a_forward_pass_there_is_nothing_to_put_back():
    model = nn.BatchNorm1d(4)
    keeper = BufferKeeper(model)
    model(X)
    keeper.renew()
    model.running_mean.fill_(7)
    keeper.put_back(True)
    assert model.running_mean.tolist() == [7] * 4


def test_parts_that_are_called_in_place_of_the_model():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
    keeper = BufferKeeper(model)
    for _ in range(2):
        model[0](X)
        keeper.put_back(False)
        keeper.renew()
        before = values(model)
        model[0](BAD)
        keeper.put_back(True)
        keeper.renew()
        assert_same(model, before)


def test_no_buffers_no_hook():
    model = nn.Linear(2, 2)
    keeper = BufferKeeper(model)
    assert not model._forward_pre_hooks
    keeper.renew()
    keeper.put_back(True)
    keeper.close()


def test_closing_takes_the_hook_off():
    model = nn.BatchNorm1d(4)
    keeper = BufferKeeper(model)
    assert len(model._forward_pre_hooks) == 1
    keeper.close()
    keeper.close()
    assert not model._forward_pre_hooks
    model(BAD)
    keeper.put_back(True)
    assert model.running_mean.isnan().all()


def test_memory_is_used_again():
    model = nn.BatchNorm1d(4)
    keeper = BufferKeeper(model)
    pointers = set()
    for _ in range(3):
        model(X)
        keeper.renew()
        model(X)
        pointers.add(keeper._groups[torch.float32, torch.device("cpu")]._saved.data_ptr())
    assert len(pointers) == 1


def test_a_large_buffer_is_copied_only_when_written_to():
    model = make_model()
    keeper = BufferKeeper(model)
    saved = {}
    for _ in range(2):
        keeper.renew()
        model(X)
        saved = {large._name: large._saved for large in keeper._large.values()}
        saved["steady"].zero_()  # would be overwritten by another copy
    assert set(saved) == {"bank", "steady"}
    keeper.put_back(True)
    assert model[0].steady.sum() == LARGE  # not touched, so not put back either


def test_buffers_that_come_and_change_between_steps():
    model = nn.Sequential(nn.BatchNorm1d(4))
    keeper = BufferKeeper(model)
    model(X)
    keeper.renew()
    model[0].register_buffer("extra", torch.ones(2))
    model[0].running_mean = torch.full((4,), 5.0)
    before = values(model)
    model(BAD)
    model[0].extra.zero_()
    keeper.put_back(True)
    assert_same(model, before)


def test_a_buffer_of_another_shape_is_put_back_too():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("cache", torch.zeros(2))

        def forward(self, x):
            self.cache = torch.ones(len(self.cache) + 1)
            return x

    model = Growing()
    keeper = BufferKeeper(model)
    for skip, size in [(True, 2), (torch.tensor(1.0), 2), (torch.tensor(0.0), 3), (False, 4)]:
        model(X)
        keeper.put_back(skip)
        keeper.renew()
        assert len(model.cache) == size


def test_lazy_buffers():
    model = nn.Sequential(nn.LazyBatchNorm1d(), nn.BatchNorm1d(4))
    keeper = BufferKeeper(model)
    model(X)
    keeper.renew()
    before = values(model)
    model(BAD)
    keeper.put_back(True)
    assert_same(model, before)


def test_a_copy_of_the_model_is_not_kept():
    model = nn.BatchNorm1d(4)
    keeper = BufferKeeper(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(BAD)
        keeper.put_back(True)
        assert twin.running_mean.isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["outside", "inside", "in place"])
def test_compiled_models(way):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    outer = torch.compile(model, backend="eager", fullgraph=True)
    if way == "in place":
        outer = model
        model.compile(backend="eager", fullgraph=True)
    keeper = BufferKeeper(model if way == "inside" else outer)
    before = values(model)
    for _ in range(2):
        outer(BAD)
        keeper.put_back(True)
        keeper.renew()
        assert_same(model, before)
    outer(X)
    keeper.put_back(torch.tensor(0.0))
    keeper.renew()
    before = values(model)
    outer(BAD)
    keeper.put_back(torch.tensor(1.0))
    assert_same(model, before)
    assert before["1.num_batches_tracked"] == 1


def _skip_on_two(rank, folder, wrap):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    plain = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    model = fully_shard(plain) if wrap == "fsdp" else DistributedDataParallel(plain)
    keeper = BufferKeeper(model)
    results = []
    for x in (X, BAD, X):
        loss = model(x[rank::2]).square().mean()
        loss.backward()
        skip = loss.detach().isnan().float()
        keeper.put_back(skip)
        keeper.renew()
        results.append({n: b.clone() for n, b in plain.named_buffers()})
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_two_ranks(tmp_path, wrap):
    mp.spawn(_skip_on_two, (str(tmp_path), wrap), nprocs=2)
    for rank in (0, 1):
        first, second, third = torch.load(tmp_path / f"rank{rank}.pt")
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(first[name], second[name]), name
            assert not torch.equal(second[name], third[name])
            assert third[name].isfinite().all()
        assert [r["1.num_batches_tracked"].item() for r in (first, second, third)] == [1, 1, 2]
