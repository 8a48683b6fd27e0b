"""Two processes with gloo: DDP and FSDP2 train attached what they train bare."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trimtab import Watch, attach

pytestmark = [pytest.mark.dist, pytest.mark.slow]

STEPS, CLIP = 6, 0.1
X = torch.randn(STEPS, 2, 4, 6, generator=torch.Generator().manual_seed(0))
WATCH = Watch(parameters=2, modules=2, histograms=4)


def make_model():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.5
    return model


def wrap(model, kind):
    """Return the model to call."""
    if kind == "ddp":
        return DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(model):
    with torch.no_grad():
        return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]


def train(model, optimizer, rank, poisoned=None, clips=False):
    norms = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(X[step, rank]).square().mean()
        (loss * torch.nan if step == poisoned and rank == 1 else loss).backward()
        if clips:
            norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            norms.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
        optimizer.step()
    return norms


def run(rank, folder, kind, fused):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {}
    for name, poisoned in {"bare": None, "attached": None, "poisoned": 2}.items():
        model = make_model()
        called = wrap(model, kind)
        optimizer = torch.optim.AdamW(called.parameters(), lr=1e-2, fused=fused)
        if name == "bare":
            results["norms"] = train(called, optimizer, rank, clips=True)
        else:
            out = f"{folder}/{name}"
            with attach(called, optimizer, clip=CLIP, watch=WATCH, out=out) as trim:
                train(called, optimizer, rank, poisoned)
            records = [r.values["gradient.norm"] for r in trim.history]
            tables = trim.history[-1].tables
            results[name + "-trim"] = {
                "norms": records,
                "skipped": trim.skipped_steps,
                "steps": trim.steps,
                "sites": trim.recorder.sites,
                "folder": trim.folder is not None,
                "ratio": [float(v) for v in tables["parameters"][1]["update.ratio"]],
                "rms": [float(v) for v in tables["modules"][1]["activation.rms"]],
            }
        results[name] = [p.detach().clone() for p in whole(called)]
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks(tmp_path, kind, fused):
    mp.spawn(run, (str(tmp_path), kind, fused), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))

    for name in ("bare", "attached", "poisoned"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    torch.testing.assert_close(first["attached"], first["bare"], rtol=1e-4, atol=1e-6)
    assert all(p.isfinite().all() for p in first["poisoned"])
    for result in (first, second):
        trim = result["attached-trim"]
        assert trim["norms"] == pytest.approx(first["norms"], rel=1e-4)
        assert (trim["steps"], trim["skipped"]) == (STEPS, 0)
        assert (result["poisoned-trim"]["steps"], result["poisoned-trim"]["skipped"]) == (STEPS, 1)
        assert trim["sites"]["parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert trim["sites"]["modules"] == ["0", "1", "2"]
        assert all(0 < ratio < 0.2 for ratio in trim["ratio"])
        assert all(rms > 0 for rms in trim["rms"])
    assert [r["attached-trim"]["folder"] for r in (first, second)] == [True, False]
