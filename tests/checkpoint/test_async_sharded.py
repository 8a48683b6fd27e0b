"""Saved by two ranks while they train on: what the file holds, and what a failing rank does."""

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from trimtab import ConfigError, StateError
from trimtab.checkpoint import (
    AsyncShardedCheckpointer,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    load_latest_sharded,
    load_sharded,
    save_checkpoint,
    save_sharded,
)

FSYNC = os.fsync
ONE, TWO = "step-00000001", "step-00000002"


def make():
    """A layer of 7 rows is split unevenly."""
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def train(model, optimizer):
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def content(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def attempt(work):
    try:
        return str(work())
    except (OSError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def shard(value, size=4):
    mesh = init_device_mesh("cpu", (2,))
    return {"a": distribute_tensor(torch.full((size,), float(value)), mesh, [Shard(0)])}


def while_training(rank, folder):
    """Save as `save_sharded` has just done, and train on while rank 1's disk takes nothing."""
    model, optimizer = make()
    train(model, optimizer)
    weights, moments = get_state_dict(model, optimizer)
    parts = {"model": weights, "state": {"optimizer": moments, "tokens": 96}}
    parts["rank_state"] = {"own": torch.full((3,), float(rank)), "rank": rank}
    reference = content(save_sharded(folder / "sync", 3, **parts))
    full = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in weights.items()}
    full = {k: v.clone() for k, v in full.items()}

    gate = threading.Event()
    os.fsync = lambda handle: (rank == 0 or gate.wait(20)) and FSYNC(handle)
    with AsyncShardedCheckpointer() as checkpointer:
        path = checkpointer.save(folder / "async", 3, **parts)
        parts["rank_state"]["own"].zero_()
        for _ in range(3):  # collective calls of the training, while threads write
            train(model, optimizer)
        seen = [p.name for p in list_checkpoints(folder / "async")]
        dist.barrier()
        gate.set()
        checkpointer.wait()
        written = content(path)
    os.fsync = FSYNC
    return {"seen": seen, "same": written == reference, "names": sorted(written), "full": full}


def twice(rank, folder):
    """Save twice in a row; the memory of the first copies holds the second."""
    with AsyncShardedCheckpointer() as checkpointer:
        places = []
        for step in (1, 2):
            checkpointer.save(folder, step, model=shard(step), state={"t": torch.ones(2)})
            kept = [checkpointer._model._kept, checkpointer._state._kept]
            places.append([t.data_ptr() for tensors in kept for t in tensors.values()])
    loaded = [load_sharded(p, model=shard(0))[1]["a"].to_local() for p in list_checkpoints(folder)]
    return {"places": places, "loaded": [t.tolist() for t in loaded]}


def full_disk(rank, folder):
    """Let one write of one rank fail after the other; both have to hear of it and to go on."""
    results = []
    with AsyncShardedCheckpointer() as checkpointer:
        checkpointer.save(folder, 1, model=shard(1), state={})
        checkpointer.wait()
        for bad in (0, 1):
            for failing in (1, 2, 3):  # its model, its state and its index
                calls = []

                def full(handle, bad=bad, failing=failing, calls=calls):
                    calls.append(handle)
                    if rank == bad and len(calls) == failing:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    FSYNC(handle)

                os.fsync = full
                checkpointer.save(folder, 2, model=shard(2), state={}, keep=1)
                if failing == 2:  # who waits is told as well as who saves again
                    said = attempt(checkpointer.wait)
                else:
                    said = attempt(lambda: checkpointer.save(folder, 3, model=shard(3), state={}))
                os.fsync = FSYNC
                dist.barrier()
                results.append((bad, said, sorted(p.name for p in folder.iterdir())))
                dist.barrier()
        checkpointer.save(folder, 4, model=shard(4), state={}, keep=1)
    return results, sorted(p.name for p in folder.iterdir())


def one_rank_only_failed_before(rank, folder):
    """What only one rank knows, as when the end of an exchange was lost, stops all all the same."""
    with AsyncShardedCheckpointer() as checkpointer:
        if rank == 1:
            checkpointer._background.begin(lambda: int("odd"))
        said = attempt(lambda: checkpointer.save(folder, 1, model=shard(1), state={}))
        checkpointer.save(folder, 2, model=shard(1), state={})
    return said, [p.name for p in list_checkpoints(folder)]


def refusals(rank, folder):
    checkpointer = AsyncShardedCheckpointer()
    save = checkpointer.save
    results = {
        "pickle": attempt(lambda: save(folder, 1, model={}, state={"x": make if rank else 1})),
        "steps": attempt(lambda: save(folder, 1 + rank, model=shard(1), state={})),
        "steps, at once": attempt(lambda: save_sharded(folder, 1 + rank, model={}, state={})),
        "keep": attempt(lambda: save(folder, 1, model=shard(1), state={}, keep=0)),
        "time": attempt(lambda: AsyncShardedCheckpointer(timeout_s=0)),
    }
    odd = {"x": torch.ones(2, dtype=torch.complex128)}
    results["type"] = attempt(lambda: save(folder, 1, model={}, state={}, rank_state=odd))
    checkpointer.close()
    results["closed"] = attempt(lambda: save(folder, 1, model=shard(1), state={}))
    results["left"] = list_checkpoints(folder)
    return results


def in_a_part_of_the_ranks(rank, folder):
    group = dist.new_group([1])
    if rank == 0:
        return attempt(lambda: AsyncShardedCheckpointer(group))
    with AsyncShardedCheckpointer(group) as checkpointer:
        path = checkpointer.save(folder, 1, model={"a": torch.ones(2)}, state={})
    return load_checkpoint(path)[1]["a"].tolist()


def timing(rank, folder):
    """Return how long the calls take on a disk that needs a tenth of a second for each file."""
    os.fsync = lambda handle: (time.sleep(0.1), FSYNC(handle))
    seconds = {}
    with AsyncShardedCheckpointer() as checkpointer:
        for name, save in {"sync": save_sharded, "async": checkpointer.save}.items():
            began = time.perf_counter()
            save(folder, 1, model=shard(1, 100_000), state={})
            seconds[name] = time.perf_counter() - began
    os.fsync = FSYNC
    return seconds


def other_disks(rank, folder):
    """Let rank 1 see another disk: there the folder that rank 0 has made is not."""
    is_dir = Path.is_dir
    Path.is_dir = lambda path: is_dir(path) and (rank == 0 or path.suffix != ".tmp")
    said = attempt(lambda: save_sharded(folder, 1, model=shard(1), state={}))
    Path.is_dir = is_dir
    return said


def rotated_away(rank, folder):
    """Remove the newest while the ranks are about to load it, and write a newer one."""
    save_sharded(folder, 1, model=shard(1), state={})
    original = Path.read_bytes

    def read(path):
        if rank == 1 and path.name == "state.json" and path.parent.name == ONE:
            Path.read_bytes = original
            path.parent.rename(folder / TWO)
            (folder / TWO / "manifest.json").unlink()  # what rank 0 finds is damaged
            save_checkpoint(folder, 3, model={"a": torch.full((4,), 3.0)}, state={})
        return original(path)

    Path.read_bytes = read
    try:
        return load_latest_sharded(folder)[0]
    finally:
        Path.read_bytes = original


PARTS = [while_training, twice, full_disk, one_rank_only_failed_before, refusals]
PARTS += [in_a_part_of_the_ranks, timing, other_disks, rotated_away]


def start(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)


def run(rank, folder):
    early = AsyncShardedCheckpointer()
    start(rank, folder)
    results = {part.__name__: part(rank, Path(folder) / part.__name__) for part in PARTS}
    results["early"] = attempt(lambda: early.save(Path(folder), 1, model={}, state={}))
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    mp.spawn(run, (str(folder),), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


pytestmark = [pytest.mark.dist, pytest.mark.slow]


def test_the_files_are_those_of_the_moment_of_the_call(ranks):
    for results in (r["while_training"] for r in ranks):
        assert results["seen"] == []  # rank 0 had written its part, rank 1 had not
        assert results["same"]
        assert len(results["names"]) == 2 * 3 + 2


def test_one_process_loads_what_two_saved(folder, ranks):
    step, weights, state = load_latest(folder / "while_training" / "async")
    torch.testing.assert_close(weights, ranks[0]["while_training"]["full"], rtol=0, atol=0)
    assert (step, state["tokens"]) == (3, 96)


def test_a_second_save_waits_and_uses_the_same_memory(ranks):
    for results in (r["twice"] for r in ranks):
        first, second = results["places"]
        assert first == second
        assert results["loaded"] == [[1, 1], [2, 2]]


def test_a_full_disk_of_one_rank_is_told_to_all_and_changes_nothing(ranks):
    for rank, (results, left) in enumerate(r["full_disk"] for r in ranks):
        assert len(results) == 6
        for bad, said, after in results:
            assert said.startswith("OSError: [Errno 28]")
            assert "No space left on device. A new checkpoint needs room beside the older" in said
            assert ("on rank" in said) == (rank != bad)
            assert after == [ONE]
        assert left == ["step-00000004"]


def test_an_error_that_one_rank_alone_knows_stops_all(ranks):
    (zero, left), (one, _) = (r["one_rank_only_failed_before"] for r in ranks)
    assert zero.startswith("StateError: It failed on rank 1: invalid literal for int()")
    assert one.startswith("ValueError: invalid literal for int()")
    assert left == [TWO]


def test_what_can_never_work_is_refused_at_once_on_all(ranks):
    zero, one = (r["refusals"] for r in ranks)
    assert zero["pickle"].startswith("StateError: It failed on rank 1: State at x is a function")
    assert one["pickle"].startswith("ConfigError: State at x is a function")
    for said in (zero, one):
        for name in ("steps", "steps, at once"):
            assert said[name].startswith("ConfigError: The ranks save different steps: 1, 2. Save")
        assert said["keep"].startswith("ConfigError: keep must be at least 1, got 0")
        assert said["time"].startswith("ConfigError: timeout_s must be above 0, got 0")
        assert said["type"].startswith("ConfigError: own.x has type torch.complex128")
        assert said["closed"].startswith("StateError: This AsyncShardedCheckpointer was closed.")
        assert said["left"] == []
    for results in ranks:
        assert "was made before init_process_group()" in results["early"]


def test_a_part_of_the_ranks_saves_by_itself(ranks):
    assert "This process is not in the group" in ranks[0]["in_a_part_of_the_ranks"]
    assert ranks[1]["in_a_part_of_the_ranks"] == [1, 1]


def test_the_call_does_not_wait_for_the_disk(ranks):
    for seconds in (r["timing"] for r in ranks):
        assert seconds["sync"] > 0.5  # three files, the manifest and two folders
        assert seconds["async"] < seconds["sync"] / 2


def test_ranks_on_different_disks_are_told(ranks):
    assert ranks[1]["other_disks"].startswith("FileNotFoundError: [Errno 2] rank 0 has made this")
    assert "All of them need a disk that they share" in ranks[0]["other_disks"]


def test_a_checkpoint_that_is_removed_while_it_is_loaded_is_not_missed(ranks):
    assert [r["rotated_away"] for r in ranks] == [3, 3]


def test_without_process_group_it_is_one_rank(tmp_path):
    with AsyncShardedCheckpointer() as checkpointer:
        path = checkpointer.save(tmp_path, 1, model={"a": torch.ones(2)}, state={"x": 1})
        checkpointer.wait()
        assert load_sharded(path)[2] == {"x": 1}
        with pytest.raises(ConfigError, match="'x' is in state and in rank_state"):
            checkpointer.save(tmp_path, 2, model={}, state={"x": 1}, rank_state={"x": 1})
    with pytest.raises(StateError, match="was closed"):
        checkpointer.save(tmp_path, 2, model={}, state={})


def lose_a_rank(rank, folder, bad, how):
    """Save once, then lose a rank in the middle of the second save."""
    start(rank, folder)
    place, checkpointer = Path(folder) / "run", AsyncShardedCheckpointer(timeout_s=3)
    checkpointer.save(place, 1, model=shard(1), state={})
    checkpointer.wait()
    dist.barrier()
    calls = []

    def lose(handle):
        calls.append(handle)
        if rank == bad and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL) if how == "kill" else time.sleep(6)
        FSYNC(handle)

    model = shard(2)
    os.fsync = lose
    began = time.perf_counter()
    checkpointer.save(place, 2, model=model, state={}, keep=1)
    said = [attempt(checkpointer.wait)]
    said.append(attempt(lambda: checkpointer.save(place, 3, model=model, state={})))
    seconds = time.perf_counter() - began
    torch.save((said, seconds), f"{folder}/rank{rank}.pt")
    os.kill(os.getpid(), signal.SIGKILL)  # as a launcher does when one of them has died


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.parametrize(("how", "bad"), [("kill", 0), ("kill", 1), ("hang", 1)])
def test_a_rank_that_is_lost_leaves_the_one_before_and_hangs_nobody(tmp_path, bad, how):
    processes = mp.spawn(lose_a_rank, (str(tmp_path), bad, how), nprocs=2, join=False).processes
    for process in processes:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    for rank in {0, 1} if how == "hang" else {1 - bad}:
        said, seconds = torch.load(tmp_path / f"rank{rank}.pt")
        for each in said:
            assert each.startswith(f"StateError: Rank {rank} of 2 has lost the others")
        assert seconds < 20
    assert load_latest(tmp_path / "run")[0] == 1
    save_checkpoint(tmp_path / "run", 5, model={}, state={}, keep=1)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["step-00000005"]


def leave(rank, folder, how):
    """End without closing, while a save is under way."""
    start(rank, folder)
    os.fsync = lambda handle: (time.sleep(0.2), FSYNC(handle))
    checkpointer = AsyncShardedCheckpointer()
    checkpointer.save(Path(folder) / "run", 1, model=shard(1), state={})
    if how == "destroy":
        dist.destroy_process_group()
    elif rank == 1:
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["destroy", "raise"])
def test_a_process_that_ends_finishes_its_save_first(tmp_path, how):
    context = mp.get_context("spawn")
    processes = [
        context.Process(target=leave, args=(rank, str(tmp_path), how), daemon=False)
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, int(how == "raise")]
    assert load_latest(tmp_path / "run")[1]["a"].tolist() == [1, 1, 1, 1]
