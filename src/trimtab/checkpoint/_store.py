"""Checkpoints of a run: written whole, verified when read, the newest good one found by itself."""

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from trimtab.checkpoint._atomic import new_folder, write_verified
from trimtab.checkpoint._disk_errors import explained
from trimtab.checkpoint._leftovers import clear_leftovers, others_at_work, put_back
from trimtab.checkpoint._manifest import (
    Manifest,
    damage_as_state_error,
    read_manifest,
    read_verified,
)
from trimtab.checkpoint._retention import by_step, drop_outdated, is_healthy
from trimtab.checkpoint._safetensors import Chunks, count_bytes, serialise
from trimtab.checkpoint._shards import ShardReader
from trimtab.checkpoint._tree import assemble, flatten, unflatten
from trimtab.errors import ConfigError, StabilityWarning, StateError

Loaded = tuple[int, dict[str, Tensor], dict[str, Any]]

_MOST_LISTS: Final = 10
"""How often a reader looks again after a training has removed what it was reading."""


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int = 2,
    healthy: bool = True,
) -> Path:
    """Write one checkpoint and drop those older than the newest `keep` healthy ones.

    It holds `model.safetensors` (any tool opens it), `state.safetensors` and `state.json` (all the
    rest) and a manifest of checksums. Nothing in it has to be unpickled. Every file is read back
    and compared. It appears under its name only when it is whole and on the disk; older ones go
    only after that. What killed processes left half-written is cleared.

    Args:
        folder: Where the checkpoints of this run live; made if missing.
        step: Names it.
        model: The model's `state_dict()`. Tied tensors are stored once.
        state: Nested tensors, numbers, strings, bytes, lists, tuples and dictionaries.
        keep: How many healthy ones to keep; at least 1.
        healthy: False for one that is taken inside an incident. It never makes a healthy one go,
            and goes itself when a newer one is written.

    Returns:
        The checkpoint's folder.

    Raises:
        ConfigError: The state holds something that only pickling could save, or `keep` is below 1.
        OSError: The disk is full or not writable; the older checkpoints are untouched.
    """
    check_settings(step, keep)
    files = encode(flatten(dict(model)), flatten(dict(state)))
    return write_checkpoint(folder, step, files, keep=keep, healthy=healthy)


def check_settings(step: int, keep: int) -> None:
    """Refuse settings that can never work.

    Raises:
        ConfigError: The step is negative, or no checkpoint would be kept.
    """
    if keep < 1:
        raise ConfigError(f"keep must be at least 1, got {keep}: the newest is always kept.")
    if step < 0:
        raise ConfigError(f"step must not be negative, got {step}. Count steps from 0.")


def encode(
    model: tuple[Any, Mapping[str, Tensor]], state: tuple[Any, Mapping[str, Tensor]]
) -> dict[str, Chunks]:
    """Return the content of each file, given what `flatten` made of model and state.

    Raises:
        ConfigError: A tensor is of a kind that safetensors cannot hold.
    """
    return {
        "model.safetensors": serialise(model[1], {"format": "pt"}),
        "state.safetensors": serialise(state[1]),
        "state.json": [to_json({"model": model[0], "state": state[0]})],
    }


def to_json(structure: object) -> bytes:
    """Return what `flatten` made as JSON.

    Raises:
        ConfigError: It is nested too deeply, or has a number with thousands of digits.
    """
    try:
        return json.dumps(structure).encode()
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"The state cannot be written as JSON: {error}. Keep it flat.") from error


def write_checkpoint(
    folder: Path, step: int, files: Mapping[str, Chunks], *, keep: int, healthy: bool
) -> Path:
    """Write the files of one checkpoint and drop those that it makes outdated."""
    path = prepare(folder, step)
    with explained(folder, count_bytes(files)), new_folder(path) as temporary:
        written = {n: write_verified(temporary / n, *c) for n, c in files.items()}
        Manifest(step=step, files=written, healthy=healthy).write(temporary)
    drop_outdated(folder, path, keep)
    return path


def prepare(folder: Path, step: int) -> Path:
    """Make the folder of checkpoints, clear what killed processes left, and name the new one.

    Raises:
        OSError: The folder cannot be made.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if others := others_at_work(folder, "tmp"):
        path, pid = others[0]
        warnings.warn(
            f"Process {pid} is saving into {folder} as well, where {path.name} is being written. "
            "Two runs in one folder remove each other's checkpoints: give each its own, and "
            "under DDP save on rank 0 alone. If there is no other run, that folder is left from "
            "one that was killed; remove it.",
            StabilityWarning,
            stacklevel=2,
        )
    clear_leftovers(folder)
    return checkpoint_path(folder, step)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return what the checkpoint of a step is called."""
    return folder / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints under `folder`, oldest first; none if it does not exist."""
    put_back(folder)
    return by_step(folder)


def mark_checkpoint(path: Path, *, healthy: bool) -> None:
    """Change what a checkpoint says about the run's health, when that shows only later.

    Args:
        path: What `save_checkpoint` returned.
        healthy: Whether the run was healthy when it was written.

    Raises:
        StateError: It is damaged.
        OSError: It cannot be written; it is as it was.
    """
    replace(read_manifest(path), healthy=healthy).rewrite(path)


def load_checkpoint(path: Path) -> Loaded:
    """Read one checkpoint after checking every byte of it.

    One that several processes wrote is put together; see `load_sharded` to split it again.

    Args:
        path: What `save_checkpoint` or `save_sharded` returned.

    Returns:
        Step, the model's state dict, and the rest of the state.

    Raises:
        StateError: A file is missing, cut off, altered, or not one that trimtab writes.
    """
    return read_checkpoint(path)


def read_checkpoint(
    path: Path, *, model: object = None, state: object = None, rank: tuple[int, int] = (0, 1)
) -> Loaded:
    """Read one checkpoint; tensors that `model` and `state` have as shards are split like these.

    Raises:
        TypeError: Never; it becomes a `StateError`.
    """
    from safetensors.torch import load

    manifest = read_manifest(path)
    with damage_as_state_error(path):
        trees = json.loads(read_verified(path, manifest, "state.json"))
        if manifest.num_ranks:
            reader = ShardReader(path, manifest)
            weights = assemble(trees["model"], reader.finder("model"), model)
            rest = assemble(trees["state"], reader.finder("state"), state)
            rest |= reader.own_state(*rank)
        else:
            contents = {n: read_verified(path, manifest, n) for n in manifest.files}
            weights = unflatten(trees["model"], load(contents["model.safetensors"]))
            rest = unflatten(trees["state"], load(contents["state.safetensors"]))
        if not (isinstance(weights, dict) and isinstance(rest, dict)):
            raise TypeError("state.json holds no dictionaries.")
    return manifest.step, weights, rest


def load_latest(folder: Path, *, healthy: bool = False) -> Loaded:
    """Read the newest checkpoint that is whole; a damaged one is passed over with a warning.

    Args:
        folder: Of checkpoints.
        healthy: Pass over those taken inside an incident too, if there is any other.

    Raises:
        ConfigError: There is no checkpoint.
        StateError: All of them are damaged.
    """
    return load_first_whole(
        folder,
        lambda: candidates(folder, healthy=healthy),
        load_checkpoint,
        lambda path: not path.exists(),
    )


def load_first_whole(
    folder: Path,
    list_them: Callable[[], list[Path]],
    load: Callable[[Path], Loaded],
    is_gone: Callable[[Path], bool],
) -> Loaded:
    """Read the first checkpoint of a list that is whole, while a training may remove them.

    Args:
        folder: Of checkpoints.
        list_them: Returns them in the order in which to try them; asked again when one of them
            was removed since.
        load: Reads one.
        is_gone: Whether it was removed.

    Raises:
        StateError: All of them are damaged, or one after the other is removed.
    """
    for _ in range(_MOST_LISTS):
        paths = list_them()
        for path in paths:
            try:
                return load(path)
            except StateError as error:
                if is_gone(path):
                    break
                warnings.warn(f"{error} Trying the one before it.", UserWarning, stacklevel=3)
        else:
            raise StateError(f"All {len(paths)} checkpoints in {folder} are damaged.")
    raise StateError(
        f"The checkpoints in {folder} are removed by a training while they are read. Let it keep "
        "more of them, or copy the newest to another folder first."
    )


def candidates(folder: Path, *, healthy: bool) -> list[Path]:
    """Return the checkpoints in the order in which to try them.

    Raises:
        ConfigError: There is none.
    """
    paths = list_checkpoints(folder)[::-1]
    for _ in range(_MOST_LISTS):
        if paths or not others_at_work(folder, "old"):
            break
        time.sleep(0.01)  # the only one is being replaced by another process
        paths = list_checkpoints(folder)[::-1]
    if not paths:
        raise ConfigError(f"There is no checkpoint in {folder}.")
    if healthy:  # a damaged manifest tells nothing; it is tried in its turn, and named
        paths.sort(key=lambda p: is_healthy(p) is False)
    return paths
