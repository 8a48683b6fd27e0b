"""How often a damaged or forged checkpoint is loaded silently, as something else than was saved.

A folder holds two checkpoints of a small transformer with its AdamW state and random states, each
in one piece or written by two processes. The newest is damaged in one way at a time: each file is
cut off, lengthened, flipped in one byte, zeroed in one block, deleted, exchanged for others or for
a pickle that would leave a trace if it were run; the manifest is forged with correct checksums.
Then the newest is loaded. Right is to fall back to the one before, or to load exactly what was
saved where the damage touches no content.
"""

import hashlib
import json
import os
import pickle
import random
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

from trimtab.checkpoint import load_latest, random_state, save_checkpoint, save_sharded
from trimtab.checkpoint._manifest import _checksum
from trimtab.checkpoint._tree import flatten

Attack = tuple[str, Callable[[], object]]
OLD, NEW = 10, 20
MANIFEST = "manifest.json"


def make_run(*, sharded: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a small transformer and its optimizer."""
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 32), layer, nn.Linear(32, 1))
    if sharded:
        fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def save_two(folder: Path, *, sharded: bool, rank: int = 0) -> None:
    """Train and save two checkpoints; on all ranks, if there are several."""
    model, optimizer = make_run(sharded=sharded)
    for step in (OLD, NEW):
        model(torch.randn(4, 6, 8)).square().mean().backward()
        optimizer.step()
        weights, moments = get_state_dict(model, optimizer)
        state = {"optimizer": moments, "losses": [0.1 * step, 2.0], "step": step}
        if sharded:
            own = {"random": random_state(), "rank": rank}
            save_sharded(folder, step, model=weights, state=state, rank_state=own)
        else:
            state["random"] = random_state()
            save_checkpoint(folder, step, model=weights, state=state)


def save_on_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module.*returned a view tensor")
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    save_two(folder, sharded=True, rank=rank)
    dist.barrier()  # a rank that leaves early makes the other abort
    dist.destroy_process_group()


def content(folder: Path) -> tuple[int, str]:
    """Return the step of the newest that loads, and a checksum of all that it gives."""
    step, model, state = load_latest(folder)
    structure, tensors = flatten({"step": step, "model": model, "state": state})
    digest = hashlib.sha256(json.dumps(structure).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return step, digest.hexdigest()


class Trace:
    """What a pickle does when it is loaded: here it only leaves a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.makedirs, (str(self._path),)


class Attacks:
    """Every way of damaging the newest checkpoint.

    Args:
        folder: With two checkpoints.
        num: How many flips, cuts and zeroed blocks a file.
    """

    def __init__(self, folder: Path, num: int) -> None:
        self.new, self.old = (folder / f"step-{step:08d}" for step in (NEW, OLD))
        self.names = sorted(p.name for p in self.new.iterdir())
        self.trace = folder / "pickle-was-run"
        self.num, self._random = num, random.Random(0)

    def __iter__(self) -> Iterator[Attack]:
        for name in self.names:
            data = (self.new / name).read_bytes()
            yield from self._bytes(name, data)
            yield "deleted", (self.new / name).unlink
            yield "linked elsewhere", lambda name=name: self._link(name)
            for pickled in (pickle.dumps(Trace(self.trace)), self._torch_file()):
                yield "pickle", lambda name=name, data=pickled: self._write(name, data)
            yield "of another step", lambda name=name: self._exchange(name, self.old / name)
            for other in self.names:
                if other != name:
                    yield "swapped", lambda name=name, other=other: self._swap(name, other)
        yield "whole of another step", self._all_of_another_step
        yield from self._forged()

    def _bytes(self, name: str, data: bytes) -> Iterator[Attack]:
        draw, size = self._random, len(data)
        for at in {0, 1, 8, size // 2, size - 1, *draw.sample(range(size), min(self.num, size))}:
            yield "cut off", lambda at=at: self._write(name, data[:at])
        for more in (b"\0", b" ", b"\n", b"}", data[:64]):
            yield "lengthened", lambda more=more: self._write(name, data + more)
        for _ in range(self.num):
            at, flip = draw.randrange(size), draw.randrange(1, 256)
            flipped = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            yield "byte flipped", lambda flipped=flipped: self._write(name, flipped)
            at, bit = draw.randrange(size), 1 << draw.randrange(8)
            flipped = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            yield "bit flipped", lambda flipped=flipped: self._write(name, flipped)
        for _ in range(self.num // 4):
            at = draw.randrange(size)
            zeroed = data[:at] + bytes(min(512, size - at)) + data[at + 512 :]
            yield "block zeroed", lambda zeroed=zeroed: self._write(name, zeroed)

    def _forged(self) -> Iterator[Attack]:
        """Change the manifest as somebody would who knows how it is made."""
        secret = self.new.parent / "secret.json"
        secret.write_text('{"model": {}, "state": {}}')
        tricks = ["../secret.json", str(secret), "model.pt", "state.pkl", "a/../state.json", ""]
        for trick in tricks:
            yield (
                "path in the manifest",
                lambda trick=trick: self._forge(
                    lambda c: c["files"].update({trick: self._entry(secret)})
                ),
            )
        for entry, value in [("step", OLD), ("step", "20"), ("files", {}), ("format", 7)]:
            yield "forged entry", lambda e=entry, v=value: self._forge(lambda c: c.update({e: v}))
        for name in self.names:
            if name != MANIFEST:
                yield "file left out", lambda name=name: self._forge(lambda c: c["files"].pop(name))
                yield "pickle, right checksum", lambda name=name: self._forge_pickle(name)

    def _forge(self, change: Callable[[Any], object]) -> None:
        manifest = json.loads((self.new / MANIFEST).read_bytes())
        change(manifest)
        manifest["sha256"] = _checksum(manifest)
        self._write(MANIFEST, json.dumps(manifest).encode())

    def _forge_pickle(self, name: str) -> None:
        self._write(name, pickle.dumps(Trace(self.trace)))
        self._forge(lambda c: c["files"].update({name: self._entry(self.new / name)}))

    def _entry(self, file: Path) -> dict[str, Any]:
        data = file.read_bytes()
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _torch_file(self) -> bytes:
        file = self.new.parent / "torch-file"
        torch.save({"model": {}}, file)
        return file.read_bytes()

    def _write(self, name: str, data: bytes) -> None:
        (self.new / name).write_bytes(data)

    def _exchange(self, name: str, other: Path) -> None:
        self._write(name, other.read_bytes())

    def _swap(self, name: str, other: str) -> None:
        one, two = (self.new / name).read_bytes(), (self.new / other).read_bytes()
        self._write(name, two)
        self._write(other, one)

    def _link(self, name: str) -> None:
        target = self.new.parent / "elsewhere"
        target.write_bytes((self.new / name).read_bytes())
        (self.new / name).unlink()
        (self.new / name).symlink_to(target)

    def _all_of_another_step(self) -> None:
        for name in self.names:
            self._exchange(name, self.old / name)


def attack_all(folder: Path, num: int) -> dict[str, Counter[str]]:
    """Damage the newest checkpoint in every way, one at a time, and load.

    Returns:
        For each kind of damage how often it was found (`"fell back"`), was without effect on what
        is loaded (`"same content"`), was loaded as something else (`"silent"`), raised another
        error than a `StateError` (`"crashed"`), or had code run (`"code run"`).
    """
    attacks = Attacks(folder, num)
    right = content(folder)
    kept = Path(shutil.copytree(attacks.new, folder / "kept"))
    shutil.move(attacks.new, folder / "aside")
    before = content(folder)
    shutil.move(folder / "aside", attacks.new)
    outcomes: dict[str, Counter[str]] = {}
    for kind, damage in attacks:
        damage()
        outcome = judge(folder, right=right, before=before)
        if attacks.trace.exists():
            attacks.trace.rmdir()
            outcome = "code run"
        outcomes.setdefault(kind, Counter())[outcome] += 1
        for file in [*attacks.new.iterdir()]:
            file.unlink()
        for file in kept.iterdir():
            shutil.copy(file, attacks.new)
    assert content(folder) == right
    return outcomes


def judge(folder: Path, *, right: tuple[int, str], before: tuple[int, str]) -> str:
    """Return what became of the damage."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = content(folder)
        except Exception:  # noqa: BLE001 # whatever it is, it is counted
            return "crashed"
    if found == right and not caught:
        return "same content"
    return "fell back" if found == before and caught else "silent"


def main() -> None:
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=150, help="flips, cuts and blocks a file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in ("whole", "sharded"):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if name == "sharded":
                mp.spawn(save_on_rank, (folder,), nprocs=2)
            else:
                save_two(folder, sharded=False)
            outcomes = attack_all(folder, options.num)
        total = sum(outcomes.values(), Counter())
        print(f"\n{name}: {time.perf_counter() - began:.0f} s")
        for kind, counts in {**outcomes, "all": total}.items():
            print(f"  {kind:<24}", ", ".join(f"{n} {what}" for what, n in counts.items()))
        silent = total["silent"] + total["code run"]
        results[name] = {
            "trials": total.total(),
            "silent_percent": 100 * silent / total.total(),
            "crashed_percent": 100 * total["crashed"] / total.total(),
            "outcomes": {kind: dict(counts) for kind, counts in outcomes.items()},
        }
    if not options.no_save:
        measure.save("corruption", torch.device("cpu"), {"num": options.num, **results})


if __name__ == "__main__":
    main()
