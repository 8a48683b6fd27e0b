"""The manifest of a checkpoint: which files belong to it, their checksums, and the run's health."""

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trimtab.checkpoint._atomic import write_atomic, write_verified
from trimtab.errors import StateError, TrimtabError

MANIFEST: Final = "manifest.json"
_WHOLE, _SHARDED = 1, 2
"""Formats. The first differs from what trimtab 0.1 wrote by two entries, which that passes over."""
_FILES: Final = frozenset({"model.safetensors", "state.safetensors", "state.json"})
_MOST_BYTES: Final = 1 << 28
"""Of a manifest: a million ranks take less. A file that claims more is not read into memory."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint consists of."""

    step: int
    files: Mapping[str, tuple[int, str]]
    """Bytes and SHA-256 of each file."""
    healthy: bool = True
    """False if it was written inside an incident."""
    num_ranks: int = 0
    """Processes that wrote their shards; 0 if it is in one piece."""

    def write(self, folder: Path) -> None:
        """Write it into a new checkpoint, as the last file."""
        write_verified(folder / MANIFEST, self._encoded())

    def rewrite(self, folder: Path) -> None:
        """Put it in the place of the one that is there."""
        write_atomic(folder / MANIFEST, self._encoded())

    def _encoded(self) -> bytes:
        content: dict[str, Any] = {
            "format": _SHARDED if self.num_ranks else _WHOLE,
            "step": self.step,
            "healthy": self.healthy,
        }
        if self.num_ranks:
            content["ranks"] = self.num_ranks
        content["files"] = {n: {"bytes": b, "sha256": s} for n, (b, s) in self.files.items()}
        return json.dumps(content | {"sha256": _checksum(content)}, indent=2).encode()


def shard_files(rank: int, num_ranks: int) -> dict[str, str]:
    """Return the names of what one rank writes: `"model"`, `"state"` and `"index"`."""
    suffix = f"{rank:05d}-of-{num_ranks:05d}"
    return {
        "model": f"model-{suffix}.safetensors",
        "state": f"state-{suffix}.safetensors",
        "index": f"rank-{suffix}.json",
    }


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the checkpoint `path` and check that nothing in it is odd.

    Raises:
        StateError: It is missing, cut off, altered, of another format, or names files that no
            checkpoint has.
        ValueError: Never; it becomes a `StateError`.
    """
    with damage_as_state_error(path):
        data = _read_regular(path, MANIFEST, None)
        content = json.loads(data)
        number = content["format"]
        if number not in {_WHOLE, _SHARDED} or isinstance(number, bool):
            raise StateError(
                f"Checkpoint {path} has format {number}, this version reads {_WHOLE} and "
                f"{_SHARDED}. Use the version of trimtab that wrote it, or a later one."
            )
        _check_entries(content)
        num_ranks = content["ranks"] if number == _SHARDED else 0
        _check_names(path, content["files"], num_ranks)
        named = re.fullmatch(r"step-(\d+)", path.name)
        if named and int(named[1]) != content["step"]:
            raise ValueError(
                f"its folder and its manifest name different steps ({content['step']})."
            )
        files = {n: (_whole(f["bytes"]), str(f["sha256"])) for n, f in content["files"].items()}
        healthy = bool(content.get("healthy", True))
        return Manifest(
            step=_whole(content["step"]), files=files, healthy=healthy, num_ranks=num_ranks
        )


def read_verified(path: Path, manifest: Manifest, name: str) -> bytes:
    """Return the content of one file of a checkpoint, exactly as it was written.

    Raises:
        StateError: It is missing, cut off or altered, or is not a file of this folder.
    """
    size, digest = manifest.files[name]
    with damage_as_state_error(path):
        data = _read_regular(path, name, size)
    if hashlib.sha256(data).hexdigest() != digest:
        raise StateError(
            f"Checkpoint {path} is damaged: {name} does not match its checksum "
            f"({len(data)} bytes, expected {size})."
        )
    return data


@contextmanager
def damage_as_state_error(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or forged checkpoint raises into a `StateError`.

    Raises:
        StateError: Something was raised inside.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (
        *(OSError, SafetensorError, RuntimeError),  # RecursionError and torch's own among them
        *(ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError),
        *(MemoryError, OverflowError),
    ) as error:
        if isinstance(error, TrimtabError):
            raise
        if isinstance(error, FileNotFoundError) and not path.exists():
            raise StateError(
                f"There is no checkpoint {path}. A training that is running removes its older "
                "ones; list_checkpoints() names those that are there."
            ) from error
        what = f"there is no {error}" if isinstance(error, KeyError) else error
        raise StateError(f"Checkpoint {path} is damaged: {str(what).rstrip('.')}.") from error


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in content.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{MANIFEST} has {value!r} in the place of a whole number.")
    return value


def _check_entries(content: Mapping[str, Any]) -> None:
    """Accept what is written today with a checksum of its own, and what trimtab 0.1 wrote.

    Raises:
        ValueError: It is neither.
    """
    expected = {"format", "step", "files"}
    if content["format"] == _WHOLE and content.keys() == expected:
        return
    expected |= {"healthy", "sha256"} | ({"ranks"} if content["format"] == _SHARDED else set())
    if content.keys() != expected or not isinstance(content["healthy"], bool):
        raise ValueError(f"{MANIFEST} has other entries than {', '.join(sorted(expected))}.")
    if content["sha256"] != _checksum(content):
        raise ValueError(f"{MANIFEST} does not match its checksum.")
    if content["format"] == _SHARDED and _whole(content["ranks"]) < 1:
        raise ValueError(f"{MANIFEST} names no ranks.")


def _check_names(path: Path, files: Mapping[str, Any], num_ranks: int) -> None:
    if num_ranks > len(files):  # before names are made for a billion of them
        raise ValueError(f"{MANIFEST} names {num_ranks} ranks, but only {len(files)} files.")
    known = _FILES
    if num_ranks:
        shards = (shard_files(rank, num_ranks).values() for rank in range(num_ranks))
        known = frozenset({"state.json"}).union(*shards)
    strange = sorted(files.keys() - known)
    if strange:
        raise StateError(
            f"Checkpoint {path} names {strange[0]!r}, which is no file that trimtab writes. It was "
            "not read: it may come from somebody who wants other files read, or code run. "
            "Use a checkpoint that you wrote yourself."
        )
    if known - files.keys():
        raise ValueError(f"{MANIFEST} does not name {min(known - files.keys())}.")


def _read_regular(path: Path, name: str, size: int | None) -> bytes:
    """Read a file that lies in the folder itself and has the size it should have.

    Raises:
        StateError: It is a link that leads out of the folder.
        ValueError: It is no file, or of another size.
    """
    file = path / name
    if file.resolve().parent != path.resolve():
        raise StateError(
            f"Checkpoint {path} leads out of its folder: {name} is a link to {file.resolve()}. It "
            "was not read. Copy the file itself into the folder."
        )
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):  # reading a pipe would never end
        raise ValueError(f"{name} is not a file.")
    if size is None and about.st_size > _MOST_BYTES:
        raise ValueError(f"{name} has {about.st_size} bytes.")
    if size is not None and about.st_size != size:
        raise ValueError(f"{name} has {about.st_size} bytes, expected {size}.")
    return file.read_bytes()
