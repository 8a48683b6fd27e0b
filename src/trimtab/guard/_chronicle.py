"""The guard's chronicle: signals of the last steps, and the incidents of a run, which it says."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from trimtab.errors import StabilityWarning
from trimtab.findings import Finding
from trimtab.guard._change import Change
from trimtab.guard._folders import IncidentFolders
from trimtab.guard._incident import Experiment, Incident, Kind
from trimtab.guard._naming import describe
from trimtab.guard._outcome import Outcome
from trimtab.guard._policy import Limits
from trimtab.guard._snapshots import Snapshot
from trimtab.guard._standing import Standing
from trimtab.guard._tape import MicroStep, Tape, TapeStep
from trimtab.guard._verdict import Verdict
from trimtab.guard.tt453_precision_overflow import PrecisionOverflow
from trimtab.guard.tt512_bad_batch import BadBatch
from trimtab.guard.tt603_state_corrupted import StateCorrupted

SHOWN: Final = 100
"""Steps before an incident whose signals are kept for its page."""

TOLD: Final = 3
"""Steps left out that are warned of; later ones are in `incidents` and in the run folder."""


class Chronicle:
    """Remembers what steps did, and enters incidents: in memory, on disk and as a warning.

    Args:
        standing: Where the run stands.
        tape: The last steps with their batches.
        folders: Writes incidents to disk.
        look: Finds the examples of a bad step that are at fault; by default, none.
    """

    def __init__(
        self,
        standing: Standing,
        tape: Tape,
        folders: IncidentFolders,
        *,
        look: Callable[[Sequence[MicroStep], Limits], dict[str, Any]] = lambda *_: {},
    ) -> None:
        self._standing, self._tape, self._folders = standing, tape, folders
        self._look = look
        self.incidents: Final[list[Incident]] = []
        self._history: deque[dict[str, float]] = deque(maxlen=SHOWN)

    # The last steps.

    def remember(self, outcome: Outcome, number: int) -> None:
        """Keep the numbers of a step for a while."""
        values = {k: v for k, v in (outcome.values or {}).items() if isinstance(v, int | float)}
        self._history.append(
            {
                "step": float(number),
                "loss": outcome.loss,
                "gradient.norm": outcome.norm,
                "skipped": float(outcome.skipped),
                "flagged": float(outcome.flagged),
                **values,
            }
        )

    def rows(self, numbers: Collection[int]) -> list[dict[str, float]]:
        """Return the signals of these steps, as far as they are remembered."""
        return [row for row in self._history if row["step"] in numbers]

    def as_step(self, number: int) -> TapeStep:
        """Return a step without batches, for its loss and norm."""
        row = next((r for r in self._history if r["step"] == number), {})
        return TapeStep(
            number=number,
            micro_steps=[],
            settings=[],
            divisor=1.0,
            loss=row.get("loss", math.nan),
            norm=row.get("gradient.norm", math.nan),
            skipped=True,
            flagged=True,
        )

    # Incidents.

    def enter_skip(self, number: int) -> None:
        """Enter the steps left out in a row, up to this one, as one incident."""
        streak = self._standing.streak
        known = self._is_known()
        if self._standing.escalated and known:  # its cause has been looked for
            suspects = [*self.incidents[-1].suspects.get("steps", ()), number]
            self.incidents[-1] = replace(
                self.incidents[-1],
                detected=number,
                lost_steps=self.incidents[-1].lost_steps + 1,
                suspects={**self.incidents[-1].suspects, "steps": suspects},
            )
            return
        first, count = streak[0], len(streak)
        steps = "1 step was" if count == 1 else f"{count} steps were"
        tape = self._tape.since(first - 1) or []
        seen = next((s for s in tape if s.number == first), None) or self.as_step(first)
        if known:
            known_ones = self.incidents[-1].suspects
            rows = {k: v for k, v in known_ones.items() if k in {"rows", "row_losses"}}
        else:
            rows = self._look(seen.micro_steps, self._standing.limits)
        incident = self._incident(
            first,
            "skip",
            _with_rows(self._as_bad_batch(seen, first), rows),
            f"{steps} left out; parameters, optimizer and buffers are untouched.",
            detected=number,
            lost_steps=count,
            suspects={"steps": list(streak), **rows},
        )
        if known:
            self.incidents[-1] = incident
        else:
            self._report(incident, tape=tape)

    def enter_observed(self, number: int) -> None:
        """Enter the bad steps in a row, up to this one, about which nothing is done."""
        first = self._standing.streak[0]
        incident = self._incident(
            first,
            "observed",
            self._as_bad_batch(self.as_step(first), first),
            "Nothing was done: the guard only observes.",
            detected=number,
            suspects={"steps": list(self._standing.streak)},
        )
        if self._is_known():
            self.incidents[-1] = incident
        else:
            self.incidents.append(incident)

    def enter_dropped(self, count: int, of: int, tape: TapeStep | None) -> None:
        """Enter micro-batches that were left out of a step that was made without them."""
        number = self._standing.number
        step = tape or self.as_step(number)
        micro_steps = [] if tape is None else tape.micro_steps
        which = [i for i, micro in enumerate(micro_steps) if bool(micro.dropped)]
        losses = [float(micro_steps[i].loss or math.nan) for i in which]
        named = f" (number {', '.join(str(i + 1) for i in which)})" if which else ""
        finding = BadBatch().finding(
            what=f"{count} of {of} micro-batches{named} had a loss or gradient that is not finite "
            "or far out"
            + (f": loss {', '.join(f'{loss:.4g}' for loss in losses)}" if losses else ""),
            step=number,
            cause="its data have nothing to do with the task, or are damaged",
            fix="look at these examples; the incident's folder has them",
        )
        rows = self._look([micro_steps[i] for i in which], self._standing.limits)
        incident = self._incident(
            number,
            "skip",
            _with_rows(finding, rows),
            "The step was made without it, divided by the weight of the rest.",
            detected=number,
            suspects={"steps": [number], "micro_batches": which, **rows},
        )
        self._report(incident, tape=[step], made=True)

    def enter_made_again(self, step: TapeStep, row: Experiment) -> None:
        """Enter a step that was made after all, and the replay that showed it to be sound."""
        at, limits = step.number, self._standing.limits
        incident = self._incident(
            at,
            "skip",
            describe(StateCorrupted(), Change(), limits, step, at, num_replays=1),
            "The step was made again, and went well.",
            detected=at,
            experiments=(row,),
            suspects={"steps": [at]},
        )
        self._report(incident, tape=[step])

    def enter_verdict(
        self,
        verdict: Verdict,
        first_bad: int,
        kind: Kind,
        action: str,
        *,
        tape: Sequence[TapeStep] | None = None,
    ) -> None:
        """Enter an incident whose cause has been looked for, in the place of its skip."""
        incident = self._incident(
            first_bad,
            kind,
            verdict.finding,
            action,
            detected=self._standing.number,
            experiments=verdict.experiments,
            snapshot_step=None if verdict.snapshot is None else verdict.snapshot.step,
            lost_steps=len(verdict.lost),
            suspects=verdict.suspects,
        )
        if self.incidents and self.incidents[-1].step == first_bad:
            self.incidents.pop()  # it was entered as a step left out
        steps = tape if tape is not None else self._tape.since(first_bad - 1) or []
        self._report(incident, tape=steps, snapshot=verdict.snapshot)

    def _is_known(self) -> bool:
        """Tell whether the steps left out in a row are an incident that has been entered."""
        return bool(self.incidents) and self.incidents[-1].step == self._standing.streak[0]

    def _as_bad_batch(self, seen: TapeStep, first: int) -> Finding:
        limits = self._standing.limits
        if self._standing.overflowed == first:
            wide = Change(precision="fp32")
            return describe(PrecisionOverflow(), wide, limits, seen, first, num_replays=1)
        change = Change(without=frozenset(self._standing.streak))
        return describe(BadBatch(), change, limits, seen, first, num_replays=0)

    def _incident(
        self, step: int, kind: Kind, finding: Finding, action: str, **others: Any
    ) -> Incident:
        """Return an incident with what was normal before it, and the signals around it."""
        limits = self._standing.limits
        names = list(dict.fromkeys(name for row in self._history for name in row))
        return Incident(
            step=step,
            kind=kind,
            finding=finding,
            action=action,
            limits={
                "loss_level": limits.loss_level,
                "loss_limit": limits.loss,
                "norm_level": limits.norm_level,
                "norm_limit": limits.norm,
            },
            signals={name: [row.get(name, math.nan) for row in self._history] for name in names},
            **others,
        )

    def _report(
        self,
        incident: Incident,
        *,
        tape: Sequence[TapeStep],
        snapshot: Snapshot | None = None,
        made: bool = False,
    ) -> None:
        """Keep an incident, say it, and write it down; the arguments are those of the folders."""
        self.incidents.append(incident)
        if incident.kind != "skip" or len(self.incidents) <= TOLD:
            text = f"{incident.finding}. {incident.action}"
            warnings.warn(text, StabilityWarning, stacklevel=2)
        self._folders.write(incident, tape=tape, snapshot=snapshot, made=made)


def _with_rows(finding: Finding, rows: Mapping[str, Any]) -> Finding:
    """Return a finding that says which examples are at fault."""
    if not rows:
        return finding
    named = [
        f"{row} (loss {loss:.4g})"
        for row, loss in zip(rows["rows"], rows["row_losses"], strict=True)
    ]
    which = f"example {named[0]} is" if len(named) == 1 else f"examples {', '.join(named)} are"
    return finding.with_(what=f"{finding.what}; {which} at fault")
