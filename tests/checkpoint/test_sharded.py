"""Saved on two ranks; loaded on two, on one, and in one piece."""

import errno
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from trimtab import ConfigError, StateError
from trimtab.checkpoint import (
    load_checkpoint,
    load_latest_sharded,
    load_sharded,
    random_state,
    restore_random_state,
    save_checkpoint,
    save_sharded,
)

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
Y = X.sum(dim=1, keepdim=True)


def make_model():
    """A layer of 7 rows is split unevenly; of 1 row, one rank holds nothing."""
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.1), nn.Linear(7, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def make(sharded):
    model = make_model()
    if sharded:
        for layer in (model[0], model[3], model):
            fully_shard(layer)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def train(model, optimizer, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(X) - Y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def full(tensors):
    return {k: v.full_tensor() if isinstance(v, DTensor) else v.clone() for k, v in tensors.items()}


def resume(path, sharded):
    model, optimizer = make(sharded)
    weights, moments = get_state_dict(model, optimizer)
    step, weights, state = load_sharded(path, model=weights, state={"optimizer": moments})
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state["optimizer"])
    return step, model, optimizer, state


def save_and_go_on(rank, folder):
    """Save after three steps, make two more; do these two again from the checkpoint."""
    model, optimizer = make(sharded=True)
    restored = torch.Generator().manual_seed(rank)
    torch.set_rng_state(restored.get_state())
    train(model, optimizer, 3)
    weights, moments = get_state_dict(model, optimizer)
    at_save = full(weights)
    path = save_sharded(
        folder,
        3,
        model=weights,
        state={"optimizer": moments, "tokens": 96},
        rank_state={"random": random_state(), "rank": rank},
        healthy=rank == 0,
    )
    losses = train(model, optimizer, 2)
    after = full(get_state_dict(model, optimizer)[0])
    step, model, optimizer, state = resume(path, sharded=True)
    restore_random_state(state["random"])
    again = train(model, optimizer, 2)
    return {
        "weights": at_save,
        "step": (step, state["tokens"], state["rank"]),
        "losses": (losses, again),
        "after": (after, full(get_state_dict(model, optimizer)[0])),
    }


def grids(rank, folder):
    """Save one grid of numbers split in every way; load it split in every other way."""
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("x",))
    whole = torch.arange(15.0).view(5, 3)
    ways = {"rows": Shard(0), "columns": Shard(1), "copies": Replicate()}
    split = {n: distribute_tensor(whole, mesh, [p]) for n, p in ways.items()}
    wrong = []
    for name, tensor in split.items():
        path = save_sharded(folder / name, 1, model={"tied": tensor, "t": tensor}, state={})
        for other, like in split.items():
            loaded = load_sharded(path, model={"t": like, "tied": like})[1]
            if not torch.equal(loaded["t"].to_local(), like.to_local()):
                wrong.append((name, other))
            if loaded["t"] is not loaded["tied"]:
                wrong.append((name, other, "tied"))
    held = sum(p.stat().st_size for p in (folder / "copies").rglob("model-*"))
    return {"wrong": wrong, "bytes": held}


def attempt(work):
    try:
        return str(work())
    except (OSError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def failures(rank, folder):
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(4.0)
    shard = {"a": distribute_tensor(whole, mesh, [Shard(0)])}
    pending = {"a": DTensor.from_local(whole, mesh, [Partial()])}
    other = {"a": distribute_tensor(torch.zeros(6), mesh, [Shard(0)])}
    results = {}
    path = save_sharded(folder, 2, model=shard, state={})
    results["pickle"] = attempt(
        lambda: save_sharded(folder, 3, model=shard, state={"x": make_model if rank else 1})
    )
    results["partial"] = attempt(lambda: save_sharded(folder, 3, model=pending, state={}))
    results["twice"] = attempt(
        lambda: save_sharded(folder, 3, model=shard, state={"a": 1}, rank_state={"a": 1})
    )
    results["alone"] = attempt(lambda: save_checkpoint(folder, 3, model=shard, state={}))
    results["shape"] = attempt(lambda: load_sharded(path, model=other))
    results["left"] = [p.name for p in folder.iterdir()]
    return results


def full_disk(rank, folder):
    """Let each write of each rank fail once; return what was said and what was left."""
    mesh = init_device_mesh("cpu", (2,))
    shard = {"a": distribute_tensor(torch.arange(4.0), mesh, [Shard(0)])}
    save_sharded(folder, 1, model=shard, state={})
    fsync, results = os.fsync, []
    for bad in (0, 1):
        for failing in range(1, 100):
            calls = []

            def full(handle, bad=bad, failing=failing, calls=calls):
                calls.append(handle)
                if rank == bad and len(calls) == failing:
                    raise OSError(errno.ENOSPC, "No space left on device")
                fsync(handle)

            os.fsync = full
            said = attempt(lambda: save_sharded(folder, 2, model=shard, state={}))
            os.fsync = fsync
            dist.barrier()
            left = sorted(p.name for p in folder.iterdir())
            dist.barrier()
            if rank == 0:
                shutil.rmtree(folder / "step-00000002", ignore_errors=True)
            dist.barrier()
            if not said.startswith("OSError"):
                break
            results.append((bad, said, left))
    return results


def latest(rank, folder):
    """Damage what one rank needs of the newest; both have to fall back."""
    mesh = init_device_mesh("cpu", (2,))
    for step in (1, 2, 3):
        tensor = distribute_tensor(torch.full((4,), float(step)), mesh, [Shard(0)])
        path = save_sharded(folder, step, model={"a": tensor}, state={}, healthy=step < 3)
        if step == 2 and rank == 0:
            file = path / "model-00001-of-00002.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"x")
        dist.barrier()
    results = {}
    for healthy in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step = load_latest_sharded(folder, model={"a": tensor}, healthy=healthy)[0]
        results[healthy] = step, [str(w.message) for w in caught]
    (folder / "none").mkdir(exist_ok=True)
    results["none"] = attempt(lambda: load_latest_sharded(folder / "none"))
    return results


def run(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {
        "go on": save_and_go_on(rank, Path(folder) / "run"),
        "grids": grids(rank, Path(folder) / "grids"),
        "failures": failures(rank, Path(folder) / "failures"),
        "disk": full_disk(rank, Path(folder) / "disk"),
        "latest": latest(rank, Path(folder) / "latest"),
    }
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


def test_two_ranks_go_on_bit_for_bit(ranks):
    for rank, results in enumerate(r["go on"] for r in ranks):
        assert results["step"] == (3, 96, rank)
        before, again = results["losses"]
        assert before == again
        torch.testing.assert_close(*results["after"], rtol=0, atol=0)


def test_one_process_puts_the_weights_together(folder, ranks):
    path = folder / "run" / "step-00000003"
    step, weights, state = load_checkpoint(path)
    torch.testing.assert_close(weights, ranks[0]["go on"]["weights"], rtol=0, atol=0)
    assert (step, state["tokens"]) == (3, 96)
    assert "random" not in state  # two ranks have two


def test_one_process_goes_on_where_two_stopped(folder, ranks):
    """Without dropout, whose masks differ, the losses are those of the two."""
    _, model, optimizer, state = resume(folder / "run" / "step-00000003", sharded=False)
    torch.testing.assert_close(model.state_dict(), ranks[0]["go on"]["weights"], rtol=0, atol=0)
    moments = optimizer.state[model[0].weight]
    saved = state["optimizer"]["state"]["0.weight"]
    torch.testing.assert_close(moments["exp_avg"], saved["exp_avg"], rtol=0, atol=0)
    assert moments["exp_avg"].shape == (7, 5)
    assert moments["step"] == 3
    with torch.random.fork_rng():
        train(model, optimizer, 1)


def test_any_split_is_loaded_as_any_other(ranks):
    assert [r["grids"]["wrong"] for r in ranks] == [[], []]


def test_copies_are_written_once(folder):
    path = folder / "grids" / "copies" / "step-00000001"
    zero, one = (path / f"model-0000{r}-of-00002.safetensors" for r in (0, 1))
    assert zero.stat().st_size > 15 * 4 > one.stat().st_size


def test_a_failure_is_everybodys(ranks):
    zero, one = (r["failures"] for r in ranks)
    assert zero["pickle"].startswith("StateError: It failed on rank 1: State at x is a function")
    assert one["pickle"].startswith("ConfigError: State at x is a function")
    for said in (zero, one):
        assert said["partial"].startswith("ConfigError: A tensor of shape (4,) is a pending sum")
        assert said["twice"].startswith("ConfigError: 'a' is in state and in rank_state")
        assert "Save it on all of them with save_sharded()" in said["alone"]
        assert "a has shape (4,) in" in said["shape"]
        assert "but (6,) here. Build the model with the settings" in said["shape"]
        assert said["left"] == ["step-00000002"]


def test_a_full_disk_of_one_rank_stops_all_and_changes_nothing(ranks):
    for rank, results in enumerate(r["disk"] for r in ranks):
        assert {bad for bad, _, _ in results} == {0, 1}
        assert len(results) > 6
        for bad, said, left in results:
            assert "No space left on device" in said
            assert ("on rank" in said) == (rank != bad)
            assert left in (["step-00000001"], ["step-00000001", "step-00000002"])
        # The new one is there only if nothing but its name was not on the disk yet.
        assert sum(len(left) == 2 for _, _, left in results) <= 1


def test_all_ranks_fall_back_together(ranks):
    for rank, results in enumerate(r["latest"] for r in ranks):
        assert results[False] == (3, [])
        step, (warning,) = results[True]
        assert step == 1
        assert warning.endswith("Trying the one before it.")
        assert ("It failed on rank 1" in warning) == (rank == 0)
        assert "model-00001-of-00002.safetensors does not match its checksum" in warning
        assert "There is no checkpoint" in results["none"]


def test_shards_that_are_damaged_are_found(folder, tmp_path):
    source = folder / "run" / "step-00000003"
    for file in source.iterdir():
        copy = Path(shutil.copytree(source, tmp_path / file.name / source.name))
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        (copy / file.name).write_bytes(data)
        with pytest.raises(StateError, match=f"damaged.*{file.name}"):
            load_checkpoint(copy)


def test_whole_tensors_on_one_process(tmp_path):
    """Without any process group it is a checkpoint of one rank."""
    tied = torch.ones(2)
    path = save_sharded(
        tmp_path, 1, model={"a": tied, "b": tied}, state={"x": 1}, rank_state={"own": tied}
    )
    step, model, state = load_sharded(path)
    assert (step, state["x"], state["own"].tolist()) == (1, 1, [1, 1])
    assert model["a"] is model["b"]
    assert load_checkpoint(path)[2].keys() == {"x", "own"}
    with pytest.raises(ConfigError, match="keep"):
        save_sharded(tmp_path, 1, model={}, state={}, keep=0)
