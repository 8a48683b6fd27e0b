"""Checkpoints of a model that is split over several processes, each writing its own part."""

# torch.distributed.checkpoint (2.13) has HuggingFaceStorageWriter, which writes sharded safetensors
# too. It was not used, because it pickles whatever is no tensor into the same files, keeps no shape
# of the whole (a reader takes the furthest shard for the end), verifies nothing, and is not in
# torch 2.6.

import errno
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from trimtab.checkpoint._atomic import new_folder, write_verified
from trimtab.checkpoint._contribution import collect, encode_contribution
from trimtab.checkpoint._disk_errors import explained
from trimtab.checkpoint._manifest import Manifest
from trimtab.checkpoint._ranks import Ranks
from trimtab.checkpoint._retention import drop_outdated
from trimtab.checkpoint._safetensors import Chunks, count_bytes
from trimtab.checkpoint._store import (
    Loaded,
    candidates,
    check_settings,
    checkpoint_path,
    load_first_whole,
    prepare,
    read_checkpoint,
)
from trimtab.errors import ConfigError


def save_sharded(
    folder: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    state: Mapping[str, Any],
    rank_state: Mapping[str, Any] | None = None,
    keep: int = 2,
    healthy: bool = True,
    group: Any = None,
) -> Path:
    """Write one checkpoint from all ranks, each its own shards; call it on all of them.

    It is as atomic and as verified as one of `save_checkpoint`, and follows the same rules of what
    is kept. It can be loaded on any number of ranks. If one rank fails, all raise and nothing has
    changed.

    Args:
        folder: On a disk that all ranks see.
        step: Names it.
        model: Shards (`DTensor`, as `fully_shard` makes them) or whole tensors, which rank 0
            writes.
        state: Likewise; what is no shard is taken from rank 0. Give the optimizer's state by name,
            as `torch.distributed.checkpoint.state_dict.get_state_dict` returns it, so that it can
            be split differently.
        rank_state: What each rank has for itself, such as random states and the position in its
            data. It comes back where the number of ranks is the same.
        keep: How many healthy checkpoints to keep; at least 1.
        healthy: False for one that is taken inside an incident.
        group: Of `torch.distributed`; None for all processes.

    Returns:
        The checkpoint's folder.

    Raises:
        ConfigError: The state holds something that only pickling could save, or a name twice, or
            the ranks save different steps.
        OSError: The disk of a rank is full or not writable; the older checkpoints are untouched.
        StateError: Another rank failed in another way.
    """
    ranks = Ranks(group)
    files = collect_together(
        step,
        keep,
        ranks,
        lambda: encode_contribution(collect(model, state, rank_state or {}, ranks)),
    )
    return write_together(folder, step, files, ranks, keep=keep, healthy=healthy)


def load_sharded(
    path: Path,
    *,
    model: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    group: Any = None,
) -> Loaded:
    """Read one checkpoint on all ranks, each the parts it needs; call it on all of them.

    Every file is checked before it is used. If that fails on one rank, all raise.

    Args:
        path: What `save_sharded` returned.
        model: The model's state dict as it is now. A tensor that is a `DTensor` here comes back
            split like it, whatever ranks wrote it; any other comes back whole, on the CPU.
        state: Likewise, of the same structure as what was saved.
        group: Of `torch.distributed`; None for all processes.

    Returns:
        Step, the model's state dict, and the rest of the state with this rank's own merged in.

    Raises:
        ConfigError: A tensor has another shape than it was saved with.
        StateError: A file that this or another rank reads is missing, cut off or altered.
    """
    ranks = Ranks(group)
    loaded: list[Loaded] = []
    rank = (ranks.rank, ranks.count)
    ranks.all(lambda: loaded.append(read_checkpoint(path, model=model, state=state, rank=rank)))
    return loaded[0]


def load_latest_sharded(
    folder: Path,
    *,
    model: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    healthy: bool = False,
    group: Any = None,
) -> Loaded:
    """Read the newest checkpoint that is whole for all ranks, as `load_sharded` does.

    Args:
        folder: Of checkpoints.
        model: The model's state dict as it is now.
        state: Likewise.
        healthy: Pass over those taken inside an incident too, if there is any other.
        group: Of `torch.distributed`; None for all processes.

    Returns:
        Step, the model's state dict, and the rest of the state.

    Raises:
        ConfigError: There is no checkpoint.
        StateError: All of them are damaged.
    """
    ranks = Ranks(group)
    return load_first_whole(
        folder,
        lambda: ranks.all(lambda: candidates(folder, healthy=healthy))[0],
        lambda path: load_sharded(path, model=model, state=state, group=group),
        lambda path: not all(ranks.all(path.exists)),
    )


def collect_together(
    step: int,
    keep: int,
    ranks: Ranks,
    prepare_files: Callable[[], dict[str, Chunks]],
) -> dict[str, Chunks]:
    """Make the files of this rank's part on all ranks, or raise on all.

    Args:
        step: Has to be the same on all.
        keep: At least 1.
        ranks: All of them make this call.
        prepare_files: Returns what this rank writes.

    Raises:
        ConfigError: A setting can never work, or ranks save different steps.
    """
    files: dict[str, Chunks] = {}

    def work() -> int:
        check_settings(step, keep)
        files.update(prepare_files())
        return step

    steps = ranks.all(work)
    if len(set(steps)) > 1:
        raise ConfigError(
            f"The ranks save different steps: {', '.join(map(str, steps))}. Save on all ranks "
            "after the same optimizer step, with the same number."
        )
    return files


def write_together(
    folder: Path,
    step: int,
    files: Mapping[str, Chunks],
    ranks: Ranks,
    *,
    keep: int,
    healthy: bool,
) -> Path:
    """Write one checkpoint from all ranks; it appears when all have written and verified theirs.

    Raises:
        OSError: The disk of a rank is full or not writable; the older checkpoints are untouched.
        StateError: Another rank failed in another way, or is gone.
    """
    with ExitStack() as stack:  # on rank 0 it removes what was begun, if anything fails
        temporary = ranks.all(lambda: _begin(folder, step, ranks, stack))[0]
        written = ranks.all(lambda: _write_part(temporary, files))
        everything = {name: about for of_rank in written for name, about in of_rank.items()}
        manifest = Manifest(step=step, files=everything, healthy=healthy, num_ranks=ranks.count)
        return ranks.all(lambda: _finish(folder, temporary, manifest, keep, ranks, stack))[0]


def _begin(folder: Path, step: int, ranks: Ranks, stack: ExitStack) -> Path:
    """Make the folder that all ranks write into; rank 0 does, and tells its name."""
    if ranks.rank:
        return folder
    path = prepare(folder, step)
    with explained(folder):
        return stack.enter_context(new_folder(path))


def _write_part(temporary: Path, files: Mapping[str, Chunks]) -> dict[str, tuple[int, str]]:
    """Write this rank's files.

    Raises:
        OSError: They cannot be written, or this rank does not see what rank 0 has made.
    """
    if not temporary.is_dir():
        raise OSError(
            errno.ENOENT,
            "rank 0 has made this folder, but this rank does not see it: it was removed, or the "
            "ranks are on different disks. All of them need a disk that they share",
            str(temporary),
        )
    with explained(temporary.parent, count_bytes(files)):
        return {n: write_verified(temporary / n, *c) for n, c in files.items()}


def _finish(
    folder: Path, temporary: Path, manifest: Manifest, keep: int, ranks: Ranks, stack: ExitStack
) -> Path:
    """Write the manifest and give the checkpoint its name; rank 0 does."""
    path = checkpoint_path(folder, manifest.step)
    if ranks.rank == 0:
        with explained(folder):
            manifest.write(temporary)
            stack.close()
        drop_outdated(folder, path, keep)
    return path
