"""Checkpoints of a run: written whole, verified when read, the newest good one found by itself."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from trimtab.checkpoint._atomic import new_folder, write_synced
from trimtab.checkpoint._tree import flatten, unflatten
from trimtab.errors import ConfigError, StateError

_MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1


def save_checkpoint(
    folder: Path, step: int, *, model: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write one checkpoint and drop those older than the newest `keep`.

    It holds `model.safetensors` (any tool opens it), `state.safetensors` and `state.json` (all the
    rest) and a manifest of checksums. Nothing in it has to be unpickled. It appears under its name
    only when it is whole and on the disk; older ones go only after that.

    Args:
        folder: Where the checkpoints of this run live; made if missing.
        step: Names it.
        model: The model's `state_dict()`. Tied tensors are stored once.
        state: Nested tensors, numbers, strings, lists and dictionaries.
        keep: How many to keep; at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        ConfigError: The state holds something that only pickling could save.
        OSError: The disk is full or not writable; the older checkpoints are untouched.
    """
    from safetensors.torch import save

    weights_tree, weights = flatten(dict(model))
    state_tree, tensors = flatten(dict(state))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}"
    files = {
        "model.safetensors": save(weights, {"format": "pt"}),
        "state.safetensors": save(tensors),
        "state.json": json.dumps({"model": weights_tree, "state": state_tree}).encode(),
    }
    manifest = {
        "format": _FORMAT,
        "step": step,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }
    with new_folder(path) as temporary:
        for name, data in files.items():
            write_synced(temporary / name, data)
        write_synced(temporary / _MANIFEST, json.dumps(manifest, indent=2).encode())
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints under `folder`, oldest first; none if it does not exist."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def load_checkpoint(path: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """Read one checkpoint after checking every byte of it.

    Args:
        path: What `save_checkpoint` returned.

    Returns:
        Step, the model's state dict, and the rest of the state.

    Raises:
        StateError: A file is missing, cut off or altered.
    """
    from safetensors.torch import load

    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        files = {name: (path / name).read_bytes() for name in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"Checkpoint {path} is damaged: {error}.") from error
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != manifest["files"][name]["sha256"]:
            raise StateError(
                f"Checkpoint {path} is damaged: {name} does not match its checksum "
                f"({len(data)} bytes, expected {manifest['files'][name]['bytes']})."
            )
    if manifest["format"] != _FORMAT:
        raise StateError(
            f"Checkpoint {path} has format {manifest['format']}, this version reads {_FORMAT}."
        )
    trees = json.loads(files["state.json"])
    model = unflatten(trees["model"], load(files["model.safetensors"]))
    return manifest["step"], model, unflatten(trees["state"], load(files["state.safetensors"]))


def load_latest(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """Read the newest checkpoint that is whole; a damaged one is passed over with a warning.

    Raises:
        ConfigError: There is no checkpoint.
        StateError: All of them are damaged.
    """
    paths = list_checkpoints(folder)
    if not paths:
        raise ConfigError(f"There is no checkpoint in {folder}.")
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except StateError as error:
            warnings.warn(f"{error} Trying the one before it.", UserWarning, stacklevel=2)
    raise StateError(f"All {len(paths)} checkpoints in {folder} are damaged.")
