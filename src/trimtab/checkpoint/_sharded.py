"""Checkpoints of a model that is split over several processes, each writing its own part."""

# torch.distributed.checkpoint (2.13) has HuggingFaceStorageWriter, which writes sharded safetensors
# too. It was not used, because it pickles whatever is no tensor into the same files, keeps no shape
# of the whole (a reader takes the furthest shard for the end), verifies nothing, and is not in
# torch 2.6.

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from trimtab.checkpoint._atomic import new_folder, write_verified
from trimtab.checkpoint._manifest import Manifest, shard_files
from trimtab.checkpoint._ranks import Ranks
from trimtab.checkpoint._retention import drop_outdated
from trimtab.checkpoint._safetensors import Chunks, serialise
from trimtab.checkpoint._shards import parts_to_write
from trimtab.checkpoint._store import (
    Loaded,
    candidates,
    check_settings,
    checkpoint_path,
    prepare,
    read_checkpoint,
    to_json,
)
from trimtab.checkpoint._tree import flatten
from trimtab.errors import ConfigError, StateError


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
        ConfigError: The state holds something that only pickling could save, or a name twice.
        OSError: The disk of a rank is full or not writable; the older checkpoints are untouched.
        StateError: Another rank failed in another way.
    """
    ranks = Ranks(group)
    files: dict[str, Chunks] = {}
    ranks.all(lambda: files.update(_encode(step, keep, model, state, rank_state or {}, ranks)))
    with ExitStack() as stack:  # on rank 0 it removes what was begun, if anything fails
        temporary = ranks.all(lambda: _begin(folder, step, ranks, stack))[0]
        written = ranks.all(
            lambda: {n: write_verified(temporary / n, *c) for n, c in files.items()}
        )
        everything = {name: about for of_rank in written for name, about in of_rank.items()}
        manifest = Manifest(step=step, files=everything, healthy=healthy, num_ranks=ranks.count)
        return ranks.all(lambda: _finish(folder, temporary, manifest, keep, ranks, stack))[0]


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
    paths = Ranks(group).all(lambda: candidates(folder, healthy=healthy))[0]
    for path in paths:
        try:
            return load_sharded(path, model=model, state=state, group=group)
        except StateError as error:
            warnings.warn(f"{error} Trying the one before it.", UserWarning, stacklevel=2)
    raise StateError(f"All {len(paths)} checkpoints in {folder} are damaged.")


def _encode(
    step: int,
    keep: int,
    model: Mapping[str, Tensor],
    state: Mapping[str, Any],
    own: Mapping[str, Any],
    ranks: Ranks,
) -> dict[str, Chunks]:
    """Return the content of each file that this rank writes.

    Raises:
        ConfigError: A name is in both states.
    """
    check_settings(step, keep)
    if twice := sorted(own.keys() & state.keys()):
        raise ConfigError(
            f"{twice[0]!r} is in state and in rank_state, which come back as one. Rename one of "
            "them."
        )
    weights_tree, weights = flatten(dict(model), Tensor.detach, shards=True)
    state_tree, shared = flatten(dict(state), Tensor.detach, shards=True)
    own_tree, own_tensors = flatten(dict(own))
    model_parts, model_index = parts_to_write(weights, rank=ranks.rank)
    state_parts, state_index = parts_to_write(shared, rank=ranks.rank)
    tensors = {f"shared.{n}": t for n, t in state_parts.items()}
    tensors |= {f"own.{n}": t for n, t in own_tensors.items()}
    index = {"model": model_index, "state": state_index, "own": own_tree}
    names = shard_files(ranks.rank, ranks.count)
    files: dict[str, Chunks] = {
        names["model"]: serialise(model_parts, {"format": "pt"}),
        names["state"]: serialise(tensors),
        names["index"]: [to_json(index)],
    }
    if ranks.rank == 0:
        files["state.json"] = [to_json({"model": weights_tree, "state": state_tree})]
    return files


def _begin(folder: Path, step: int, ranks: Ranks, stack: ExitStack) -> Path:
    """Make the folder that all ranks write into; rank 0 does, and tells its name."""
    if ranks.rank:
        return folder
    return stack.enter_context(new_folder(prepare(folder, step)))


def _finish(
    folder: Path, temporary: Path, manifest: Manifest, keep: int, ranks: Ranks, stack: ExitStack
) -> Path:
    """Write the manifest and give the checkpoint its name; rank 0 does."""
    path = checkpoint_path(folder, manifest.step)
    if ranks.rank == 0:
        manifest.write(temporary)
        stack.close()
        drop_outdated(folder, path, keep)
    return path
