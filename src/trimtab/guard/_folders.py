"""The folders of a run's incidents: few enough, and each with what repeats its incident."""

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch.distributed as dist

from trimtab.errors import StabilityWarning
from trimtab.guard._bundle import write_bundle
from trimtab.guard._gear import Gear
from trimtab.guard._incident import Incident
from trimtab.guard._snapshots import Snapshot, SnapshotRing
from trimtab.guard._tape import TapeStep

CONTEXT: Final = 32
"""Steps before one that was left out that go into its folder, so that it can be seen what healthy
batches do in a replay; more would take long to write."""

SMALL: Final = 2**28
"""Bytes of a state up to which it is written to disk for one step that was left out."""


@dataclass(frozen=True)
class _Written:
    """An incident's folder."""

    step: int
    kind: str
    path: Path


class IncidentFolders:
    """Writes incidents to disk, and removes what is too many.

    Args:
        gear: Of the guard.
        folder: Returns where incidents are written to unless the settings say so; None for nowhere.
        run_config: Returns the settings of the run, which incidents are written down with.
    """

    def __init__(
        self,
        gear: Gear,
        *,
        folder: Callable[[], Path | None],
        run_config: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self._gear, self._folder, self.run_config = gear, folder, run_config
        self._written: list[_Written] = []
        self._disk_failed = False

    def write(
        self,
        incident: Incident,
        *,
        tape: Sequence[TapeStep],
        snapshot: Snapshot | None = None,
        made: bool = False,
    ) -> None:
        """Write an incident down, if there is a place and room for it.

        Args:
            incident: What happened.
            tape: Steps to replay.
            snapshot: From before them, if there is one.
            made: Whether the step was made, so that the state is not that of before it.
        """
        out = self._gear.config.out
        folder = self._folder() if out is None else Path(out)
        if dist.is_available() and dist.is_initialized() and dist.get_rank() > 0:
            folder = None  # the first rank writes
        before = next((w for w in self._written if w.step == incident.step), None)
        if folder is None or not (before or self._has_room(incident)):
            return
        state, tape = self._to_replay(incident, tape, snapshot, made=made)
        if state is not None:
            incident = replace(incident, snapshot_step=state["step"])
        try:
            path = write_bundle(
                folder,
                incident,
                snapshot=state,
                batches=[_as_plain(step) for step in tape],
                config=self.run_config(),
                replaces=None if before is None else before.path,
            )
            self._note_written(_Written(incident.step, incident.kind, path))
        except OSError as error:
            if not self._disk_failed:
                warnings.warn(
                    f"The incident of step {incident.step} could not be written to {folder}: "
                    f"{error.strerror}. It is in memory, and training goes on.",
                    StabilityWarning,
                    stacklevel=3,
                )
            self._disk_failed = True

    def _has_room(self, incident: Incident) -> bool:
        """Tell whether a folder may be written: one more, or in the place of a lesser one."""
        keep = self._gear.config.keep_incidents
        return len(self._written) < keep or (keep > 0 and incident.kind != "skip")

    def _note_written(self, written: _Written) -> None:
        """Remember a folder of this run, and remove what is too many."""
        self._written = [*(w for w in self._written if w.step != written.step), written]
        while len(self._written) > self._gear.config.keep_incidents:
            lesser = [w for w in self._written if w.kind == "skip"] or self._written
            shutil.rmtree(lesser[0].path, ignore_errors=True)
            self._written.remove(lesser[0])

    def _to_replay(
        self,
        incident: Incident,
        tape: Sequence[TapeStep],
        snapshot: Snapshot | None,
        *,
        made: bool,
    ) -> tuple[Mapping[str, Any] | None, Sequence[TapeStep]]:
        """Return the state that an incident's replay begins with, if any, and the steps from it."""
        gear = self._gear
        if snapshot is not None:
            return snapshot.state_dict(), tape
        if incident.kind != "skip" or gear.live.nbytes > SMALL:
            return None, tape
        near = None if gear.ring is None else gear.ring.newest(before=incident.step)
        if near is not None and incident.step - near.step <= CONTEXT:
            steps = gear.tape.since(near.step)
            if steps:
                return near.state_dict(), steps
        if made:
            return None, tape
        now = SnapshotRing(gear.live, slots=2).take(incident.step - 1)
        return None if now is None else now.state_dict(), tape


def _as_plain(step: TapeStep) -> dict[str, Any]:
    """Return a step as an incident's folder holds it."""
    return {
        "number": step.number,
        "micro_steps": [
            {
                "batch": micro.batch,
                "weight": micro.weight,
                "factor": micro.factor,
                "random": micro.random,
                "loss": micro.loss,
                "precision": micro.precision,
                "dropped": bool(micro.dropped),
                "fresh": None if micro.fresh is None else sorted(micro.fresh),
            }
            for micro in step.micro_steps
        ],
        "settings": step.settings,
        "divisor": step.divisor,
        "norm_limit": step.norm_limit,
        "loss": step.loss,
        "norm": step.norm,
        "skipped": step.skipped,
        "flagged": step.flagged,
        "which": step.which,
        "own_clip": None if step.own_clip is None else {"max_norm": step.own_clip.max_norm},
    }
