import math
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from trimtab.checkpoint._tree import flatten, unflatten
from trimtab.errors import ConfigError, StateError
from trimtab.guard import LiveState, SnapshotRing
from trimtab.guard._snapshots import FIRST_INTERVAL, MAX_INTERVAL

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def make_model():
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
    return model


class Run:
    def __init__(self, **options):
        self.model = make_model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, total_iters=50)
        self.live = LiveState(self.model, [self.optimizer], {"schedule": self.schedule})
        self.ring = SnapshotRing(self.live, **options)

    def train(self, steps):
        losses = []
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = (self.model(X) - X.sum(1, keepdim=True)).square().mean()
            loss.backward()
            self.ring.before_update()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
        return losses


def test_every_snapshot_of_the_ring_leads_on_bit_for_bit():
    run = Run()
    losses, taken = [], []
    for step in (0, 10, 20):
        taken.append(run.ring.take(step))
        losses += run.train(10)
    for snapshot in (taken[1], taken[0], taken[2], taken[1]):
        run.ring.restore(snapshot)
        assert run.train(10) == losses[snapshot.step : snapshot.step + 10]


def test_memory_is_used_again_and_the_dropped_are_refused():
    run = Run(slots=2)
    run.train(1)
    first = run.ring.take(1)
    pointers = {t.data_ptr() for t in first.stored()}
    run.ring.confirm(1)
    run.ring.take(2)
    run.ring.confirm(2)
    third = run.ring.take(3)
    assert {t.data_ptr() for t in third.stored()} == pointers
    message = r"^The snapshot of step 1 was dropped .* with newest\(\)\.$"
    with pytest.raises(StateError, match=message):
        run.ring.restore(first)
    with pytest.raises(StateError, match=message):
        first.state_dict()


@pytest.mark.parametrize(
    ("slots", "events", "kept"),
    [
        # A number is a snapshot taken, "+n" confirms all until step n.
        (3, [0, 10, 20], "0 10 20"),
        (3, [0, 10, "+0", 20, 30], "0+ 10 30"),  # the newest healthy one and the next stay
        (3, [0, 10, "+0", 20, 30, 40], "0+ 10 40"),
        (3, [0, 10, 20, "+10", 30], "10+ 20 30"),  # of two healthy ones the older goes
        (3, [0, 10, 20, "+20", 30, 40], "20+ 30 40"),
        (3, [0, 10, 20, 30, 40, "+0"], "0+ 20 40"),  # nothing confirmed: the oldest stays
        (2, [0, "+0", 10, 20, 30], "0+ 30"),
        (2, [0, "+0", 10, "+10", 20], "10+ 20"),
        (4, [0, "+0", 10, 20, 30, 40], "0+ 10 30 40"),  # of equals the older
        (4, [0, "+0", 10, 30, 35, 50], "0+ 10 30 50"),  # else the one in the narrowest place
        (4, [0, "+0", 10, 12, 30, 50], "0+ 10 30 50"),
    ],
)
def test_who_goes(slots, events, kept):
    ring = Run(slots=slots).ring
    for event in events:
        if isinstance(event, str):
            ring.confirm(int(event))
        else:
            ring.take(event)
    assert " ".join(f"{s.step}{'+' if s.healthy else ''}" for s in ring.snapshots) == kept


def test_confirmation_reaches_the_ring_however_short_the_interval():
    """With a delay of 40 and a step of 1 second, a copy would be due at every step."""
    run = Run(slots=3)
    ages = []
    for step in range(400):
        run.ring.confirm(step - 40)
        if run.ring.due(step, 1.0):
            run.ring.take(step)
        newest = run.ring.newest(healthy=True)
        ages.append(step - newest.step if newest else step)
    assert run.ring.interval == 1
    assert max(ages[100:]) <= 40 + 20 + 1  # the delay, and half of it between snapshots


def test_the_newest_is_found():
    ring = Run(slots=4).ring
    for step in (0, 10, 20, 30):
        ring.take(step)
    ring.confirm(15)
    assert ring.newest().step == 30
    assert ring.newest(healthy=True).step == 10
    assert ring.newest(healthy=False).step == 30
    assert ring.newest(before=30).step == 20
    assert ring.newest(before=10, healthy=True).step == 0
    assert ring.newest(before=0) is None


def test_later_snapshots_are_dropped():
    ring = Run(slots=4).ring
    for step in (0, 10, 20):
        ring.take(step)
    ring.drop_after(10)
    assert [s.step for s in ring.snapshots] == [0, 10]
    ring.drop_after(-1)
    assert ring.newest() is None


@pytest.mark.parametrize(
    ("copy_s", "step_s", "overhead", "interval"),
    [
        (0.01, 1.0, 0.01, 1),
        (0.05, 1.0, 0.01, 5),
        (0.05, 0.1, 0.01, 50),
        (0.05, 0.1, 0.1, 5),
        (1.0, 0.1, 0.01, MAX_INTERVAL),
        (1e-9, 1.0, 0.01, 1),
        (0.05, math.nan, 0.01, FIRST_INTERVAL),
        (0.05, 0.0, 0.01, FIRST_INTERVAL),
    ],
)
def test_cadence_keeps_to_the_budget(monkeypatch, copy_s, step_s, overhead, interval):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock) * copy_s)
    ring = Run(overhead=overhead).ring
    assert ring.due(0, step_s)
    ring.take(0)
    assert ring.interval == interval
    due = [ring.due(step, step_s) for step in range(1, interval + 2)]
    assert due == [False] * (interval - 1) + [True] * 2


def test_what_was_looked_at_before_a_copy_belongs_to_its_cost(monkeypatch):
    monkeypatch.setattr("time.perf_counter", iter([5.0]).__next__)
    ring = Run().ring
    ring.due(0, 1.0)
    ring.take(0, began=4.975)
    assert ring.interval == 3
    monkeypatch.setattr("time.perf_counter", iter([9.0]).__next__)
    ring.take(10, began=8.95)
    assert ring.copy_seconds == pytest.approx([0.025, 0.05])


def test_one_disturbed_copy_does_not_set_the_cadence(monkeypatch):
    times = iter([0, 0.015, 1, 1.015, 2, 7.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    ring = Run().ring
    for step in range(3):
        ring.due(step, 1.0)
        ring.take(step)
    assert ring.interval == 2


def test_what_an_update_waits_for_counts(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    run = Run()
    run.live.copier.seconds_beside = lambda: 3.0
    run.ring.due(0, 4.0)
    run.ring.take(0)  # half a step is 2 s: 1 s is waited for
    assert run.ring.interval == 25
    run.live.copier.seconds_beside = lambda: 1.9
    for step in range(1, 5):
        run.ring.take(step)
    assert run.ring.interval == 1


def test_ranks_take_the_slowest_cadence_and_the_least_room():
    ring = Run(slowest=lambda value: max(value, 37 if value > 0 else -2)).ring
    ring.due(0, 1e6)
    ring.take(0)
    assert ring.interval == 37
    for step in (1, 2, 3):
        ring.take(step)
    assert len(ring.snapshots) == 2


def test_without_memory_for_one_a_warning_says_so_once():
    run = Run(memory_bytes=100)
    size = run.live.nbytes
    expected = (
        rf"^The memory for snapshots is 1e-07 GB, and one of this run's takes \S+ GB; two are "
        r"needed to renew them\. There is no state to roll back to\. Allow at least "
        rf"memory_bytes={2 * size}, or shard the model over more processes\.$"
    )
    with pytest.warns(UserWarning, match=expected):
        assert run.ring.take(0) is None
    assert not run.ring.due(1, 1.0)
    assert run.ring.take(1) is None
    assert run.ring.newest() is None


def test_memory_for_one_keeps_the_first():
    run = Run()
    run.ring.memory_bytes = int(1.5 * run.live.nbytes)
    with pytest.warns(UserWarning, match=r"Only the one of step 0 is kept, and it is not renewed"):
        first = run.ring.take(0)
    losses = run.train(3)
    run.ring.confirm(0)
    assert not run.ring.due(500, 1.0)
    assert run.ring.take(500) is None
    run.ring.restore(first)
    assert run.train(3) == losses


def test_slots_that_do_not_fit_are_done_without():
    run = Run(slots=5)
    run.train(1)
    run.ring.memory_bytes = int(3.5 * run.live.nbytes)
    for step in range(6):
        run.ring.take(step)
    assert len(run.ring.snapshots) == 3
    assert run.ring._pool.nbytes <= run.ring.memory_bytes


def test_the_bound_holds_while_the_state_grows():
    run = Run()
    run.train(1)
    full = run.live.nbytes
    run.optimizer.state.clear()
    run.ring.memory_bytes = int(2.2 * full)
    run.ring.take(0)  # a third of the size
    run.train(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in (1, 2, 3, 4):
            run.ring.take(step)
            assert run.ring._pool.nbytes <= run.ring.memory_bytes
    assert [s.step for s in run.ring.snapshots] == [0, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 1}, "slots must be at least 2, got 1"),
        ({"memory_bytes": 0}, "memory_bytes must be positive, got 0"),
        ({"overhead": 0.0}, r"overhead must be a share in \(0, 1\), got 0.0"),
        ({"overhead": 1.0}, r"overhead must be a share in \(0, 1\), got 1.0"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        Run(**options)


def test_the_state_can_be_saved_and_loaded_by_torch_alone():
    run = Run()
    run.train(5)
    snapshot = run.ring.take(5)
    losses = run.train(5)
    state = unflatten(*flatten(snapshot.state_dict()))

    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=50)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizers"][0])
    schedule.load_state_dict(state["parts"]["schedule"])
    again = Run()
    again.model, again.optimizer, again.schedule = model, optimizer, schedule
    assert again.train(5) == losses
    assert (state["step"], state["healthy"], state["left_out"]) == (5, False, [])
    assert state["random"].keys() >= {"cpu"}


def test_the_state_is_a_copy():
    run = Run()
    snapshot = run.ring.take(0)
    snapshot.state_dict()["model"]["0.weight"].zero_()
    assert snapshot.state_dict()["model"]["0.weight"].abs().sum() > 0


def test_what_only_pickling_could_save_is_left_out_and_named():
    class Part:
        def state_dict(self):
            return {"rule": Part, "list": [1, Part], "number": 3}

        def load_state_dict(self, state):
            self.loaded = state

    part, model = Part(), nn.Linear(1, 1)
    ring = SnapshotRing(LiveState(model, [], {"part": part}))
    snapshot = ring.take(0)
    state = snapshot.state_dict()
    assert state["parts"] == {"part": {"list": [1, None], "number": 3}}
    assert state["left_out"] == ["parts.part.rule", "parts.part.list.1"]
    flatten(state)
    ring.restore(snapshot)
    assert part.loaded == {"rule": Part, "list": [1, Part], "number": 3}


def _train_on_two(rank, folder, wrap):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    plain = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    plain.load_state_dict(torch.load(f"{folder}/weights.pt"))
    if wrap == "fsdp":
        fully_shard(plain[0])
        model = fully_shard(plain)
    else:
        model = DistributedDataParallel(plain)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ring = SnapshotRing(LiveState(model, [optimizer]))
    rows = X[rank::2]

    def train(steps):
        losses = []
        for _ in range(steps):
            loss = model(rows).square().mean()
            loss.backward()
            ring.before_update()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    empty = ring.take(0)
    start = train(3)
    moved = ring.take(3)
    first = train(4)
    ring.restore(moved)
    second = train(4)
    optimizer.state.clear()
    ring.restore(moved)
    third = train(4)
    ring.restore(empty)
    again = train(3)
    kinds = [type(optimizer.state[p]["exp_avg"]).__name__ for p in model.parameters()]
    torch.save(
        {
            "continued": [first, second, third],
            "from zero": [start, again],
            "bytes": moved.nbytes,
            "names": list(moved.state_dict()["model"]),
            "kinds": set(kinds),
        },
        f"{folder}/rank{rank}.pt",
    )
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_two_ranks_go_on_bit_for_bit(tmp_path, wrap):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    mp.spawn(_train_on_two, (str(tmp_path), wrap), nprocs=2)
    results = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for result in results:
        assert result["continued"][0] == result["continued"][1] == result["continued"][2]
        assert result["from zero"][0] == result["from zero"][1]
        assert result["names"] == list(model.state_dict())
        assert result["kinds"] == {"DTensor" if wrap == "fsdp" else "Tensor"}
    whole = 3 * 4 * sum(p.numel() for p in model.parameters())
    sizes = [result["bytes"] for result in results]
    assert all(s < 0.7 * whole for s in sizes) if wrap == "fsdp" else min(sizes) >= whole


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_copies_beside_the_step_are_of_the_state_before_the_update():
    model = nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(8)]).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ring = SnapshotRing(LiveState(model, [optimizer]))
    x = torch.randn(64, 1024, device="cuda")
    for step in range(6):
        before = [p.detach().clone() for p in model.parameters()]
        snapshot = ring.take(step)
        model(x).square().mean().backward()
        ring.before_update()
        optimizer.step()
        optimizer.zero_grad()
        ring.restore(snapshot)
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
