"""The incident bundle: a folder with all that shows an incident, and all that repeats it."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from trimtab.checkpoint._atomic import new_folder, write_synced
from trimtab.checkpoint._tree import flatten, unflatten
from trimtab.errors import ConfigError, StateError
from trimtab.findings._render import plain
from trimtab.guard._environment import describe_environment
from trimtab.guard._incident import Incident

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
KIND: Final = "trimtab incident"
REQUIRED: Final = frozenset({"environment.json", "incident.html", "incident.json", "signals.csv"})
OPTIONAL: Final = frozenset(
    {
        "batches.json",
        "batches.safetensors",
        "config.json",
        "snapshot.json",
        "snapshot.safetensors",
    }
)
"""Nothing else is ever read from a bundle."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What an incident bundle holds, checked and read."""

    path: Path
    """The folder."""
    incident: Incident
    snapshot: Mapping[str, Any] | None
    """`model`, `optimizers`, `parts` and `random` before the first step that is replayed."""
    batches: tuple[Mapping[str, Any], ...]
    """What was recorded of each step to replay: `number`, `micro_steps`, `settings`, `divisor`,
    `loss`, `norm`, `skipped`."""
    config: Mapping[str, Any] | None
    """Settings of the run; those of a recipe have its name under `recipe`."""
    environment: Mapping[str, Any]
    """As `describe_environment` returned it when the incident was recorded."""
    left_out: tuple[str, ...] = ()
    """What could not be saved without pickling."""


def write_bundle(
    folder: Path,
    incident: Incident,
    *,
    snapshot: Mapping[str, Any] | None,
    batches: Sequence[Mapping[str, Any]] = (),
    config: Mapping[str, Any] | None = None,
    keep: int | None = None,
    replaces: Path | None = None,
) -> Path:
    """Write one incident as a folder of its own, whole or not at all.

    It holds `incident.html` to look at; `incident.json`, `signals.csv` and `environment.json` to
    compute with; snapshot and batches as safetensors beside JSON, to replay; and a manifest of
    checksums. Nothing in it has to be unpickled. What only pickling could save is left out and
    named on the page: an incident that is known in part is better than none.

    Args:
        folder: Where the incidents of this run live; made if missing.
        incident: What happened. It names the bundle: `step-00000151`, and `step-00000151-2` where
            the same step went bad before.
        snapshot: State before the first step that is replayed, as a snapshot's `state_dict()`.
        batches: A mapping for each step since then: `number`, `micro_steps` (each with `batch`,
            `weight`, `factor`, `random`), `settings`, `divisor`, `loss`, `norm`, `skipped`.
        config: Settings of the run; those of a recipe have its name under `recipe`.
        keep: How many bundles to keep in `folder`, the newest; at least 1. None keeps all.
        replaces: What was written of the same incident before more was known; it gives way when the
            new bundle is whole.

    Returns:
        The bundle's folder.

    Raises:
        ConfigError: `keep` is below 1.
        OSError: The disk is full or not writable; nothing of the bundle is left behind.
    """
    from trimtab.report._incident_page import incident_page  # only a run that goes wrong needs it

    if keep is not None and keep < 1:
        raise ConfigError(f"keep must be at least 1, got {keep}. None keeps all incidents.")
    left_out: list[str] = []
    files = {
        **_tensor_files("snapshot", _savable_snapshot(snapshot, left_out), left_out),
        **_tensor_files("batches", _savable_batches(batches, left_out), left_out),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = replaces or _free_name(folder, incident.name)
    environment = describe_environment()
    shown = incident.to_dict() | {
        "environment": environment,
        "config": plain(config or {}),
        "path": _shown(path),
        "left_out": left_out,
        "replayable": {"snapshot.json", "batches.json"} <= files.keys()
        and len((snapshot or {}).get("optimizers", ())) <= 1,
    }
    files |= {
        "environment.json": _json(environment),
        "incident.json": _json(incident.to_dict() | {"left_out": left_out}),
        "incident.html": incident_page(shown, f"Incident at step {incident.step}").encode(),
        "signals.csv": _csv(incident.signals),
    }
    if config is not None:
        files["config.json"] = _json(plain(config))
    with new_folder(path) as temporary:
        for name, data in files.items():
            write_synced(temporary / name, data)
        write_synced(temporary / MANIFEST, _json(_manifest(files)))
    if keep is not None:
        for old in list_bundles(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return path


def list_bundles(folder: Path) -> list[Path]:
    """Return the incident bundles under `folder`, oldest first; none if it does not exist."""
    found = [p for p in folder.glob("step-*") if (p / MANIFEST).is_file()]
    return sorted(found, key=lambda p: ((p / MANIFEST).stat().st_mtime_ns, p.name))


def read_bundle(path: Path) -> Bundle:
    """Read a bundle after checking every byte of it; nothing is unpickled, no code is run.

    Args:
        path: The bundle's folder, or a file in it, such as its page.

    Raises:
        ConfigError: There is no bundle.
        StateError: A file is missing, cut off, altered, or not of those that a bundle has.
    """
    path = Path(path)
    path = path.parent if path.is_file() else path
    if not (path / MANIFEST).is_file():
        raise ConfigError(
            f"{path} holds no incident: it has no {MANIFEST}. Name the folder of one, such as "
            "runs/NAME/incidents/step-00000151."
        )
    try:
        return _parse(path, _read_files(path))
    except StateError:
        raise
    except Exception as error:  # whatever is wrong with it, it is not to be used
        raise StateError(f"Incident {path} is damaged: {error or type(error).__name__}.") from error


def _read_files(path: Path) -> dict[str, bytes]:
    """Return the contents of the files that the manifest names, each checked.

    Raises:
        StateError: A file is not what the manifest says, or may not be in a bundle.
    """
    manifest = json.loads(_plain_file(path, MANIFEST))
    if (manifest["kind"], manifest["format"]) != (KIND, FORMAT):
        raise StateError(
            f"Incident {path} has format {manifest['kind']} {manifest['format']}, this version "
            f"reads {KIND} {FORMAT}."
        )
    named = set(manifest["files"])
    for name in sorted(named - REQUIRED - OPTIONAL):
        raise StateError(f"Incident {path} names a file that no bundle has: {name!r}.")
    for name in sorted(REQUIRED - named):
        raise StateError(f"Incident {path} is damaged: {name} is missing.")
    files = {name: _plain_file(path, name) for name in sorted(named)}
    for name, data in files.items():
        expected = manifest["files"][name]
        if (len(data), _sum(data)) != (expected["bytes"], expected["sha256"]):
            raise StateError(
                f"Incident {path} is damaged: {name} does not match its checksum "
                f"({len(data)} bytes, expected {expected['bytes']})."
            )
    return files


def _plain_file(path: Path, name: str) -> bytes:
    """Return a file's content.

    Raises:
        StateError: It is missing, or leads elsewhere.
    """
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise StateError(f"Incident {path} is damaged: {name} is missing, or is no plain file.")
    return file.read_bytes()


def _parse(path: Path, files: Mapping[str, bytes]) -> Bundle:
    config = files.get("config.json")
    incident = json.loads(files["incident.json"])
    return Bundle(
        path=path,
        incident=Incident.from_dict(incident),
        snapshot=_tensors_of("snapshot", files),
        batches=tuple(map(dict, _tensors_of("batches", files) or ())),
        config=None if config is None else json.loads(config),
        environment=json.loads(files["environment.json"]),
        left_out=tuple(str(each) for each in incident.get("left_out", ())),
    )


def _tensors_of(name: str, files: Mapping[str, bytes]) -> Any:
    from safetensors.torch import load

    if f"{name}.json" not in files:
        return None
    return unflatten(json.loads(files[f"{name}.json"]), load(files[f"{name}.safetensors"]))


def _savable_snapshot(
    snapshot: Mapping[str, Any] | None, left_out: list[str]
) -> dict[str, Any] | None:
    """Return the snapshot without those parts of the user's own that need pickling."""
    if snapshot is None:
        return None
    left_out += map(str, snapshot.get("left_out", ()))
    parts = {
        name: state
        for name, state in (snapshot.get("parts") or {}).items()
        if _is_savable(state, f"state of {name}", left_out)
    }
    return dict(snapshot) | {"parts": parts}


def _savable_batches(
    batches: Sequence[Mapping[str, Any]], left_out: list[str]
) -> list[dict[str, Any]] | None:
    """Return the steps, with None in place of batches that need pickling."""
    found = [
        dict(step) | {"micro_steps": [dict(_savable_part(m, step, left_out)) for m in micro]}
        for step in batches
        for micro in [step["micro_steps"]]
    ]
    return found or None


def _savable_part(
    micro_step: Mapping[str, Any], step: Mapping[str, Any], left_out: list[str]
) -> Iterator[tuple[str, Any]]:
    for key, value in micro_step.items():
        what = f"{key} of step {step['number']}"
        yield key, value if _is_savable(value, what, left_out) else None


def _is_savable(value: object, what: str, left_out: list[str]) -> bool:
    try:
        flatten(value)
    except ConfigError as error:
        left_out.append(f"{what}: {error}")
        return False
    return True


def _tensor_files(name: str, state: object, left_out: list[str]) -> dict[str, bytes]:
    """Return the two files of nested state; none without state that can be saved."""
    from safetensors.torch import save

    if state is None or not _is_savable(state, name, left_out):
        return {}
    tree, tensors = flatten(state)
    apart = {key: _own_memory(tensor) for key, tensor in tensors.items()}
    # NaN and infinity stand in numbers of a step; the reader is this module
    return {f"{name}.json": json.dumps(tree).encode(), f"{name}.safetensors": save(apart)}


def _own_memory(tensor: Tensor) -> Tensor:
    """Return a tensor that shares no memory, as x and y do that are views of one text.

    Safetensors would refuse them.
    """
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone()


def _manifest(files: Mapping[str, bytes]) -> dict[str, Any]:
    sums = {name: {"bytes": len(data), "sha256": _sum(data)} for name, data in files.items()}
    return {"kind": KIND, "format": FORMAT, "files": sums}


def _free_name(folder: Path, name: str) -> Path:
    """Return a path that does not exist yet; what was recorded is never overwritten."""
    path, count = folder / name, 1
    while path.exists():
        count += 1
        path = folder / f"{name}-{count}"
    return path


def _shown(path: Path) -> str:
    """Return a path as the page may name it: what lies above the working folder is private."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.name


def _csv(signals: Mapping[str, Sequence[float]]) -> bytes:
    """Return signals as a table, a row a step; a signal that ends early leaves cells empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(signals)
    for row in range(max((len(values) for values in signals.values()), default=0)):
        writer.writerow([v[row] if row < len(v) else "" for v in signals.values()])
    return text.getvalue().encode()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode()


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
