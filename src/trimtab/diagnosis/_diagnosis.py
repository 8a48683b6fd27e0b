"""What diagnose returns."""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.diagnosis._job import Log
from trimtab.diagnosis._outcome import Outcome
from trimtab.diagnosis._trials import Trial
from trimtab.findings import Finding, Symptom, render_text, to_json
from trimtab.rules import History, note_finding


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a trial run showed.

    Attributes:
        findings: What is wrong, most causal first; each with what followed from it. Empty for a
            healthy run.
        advice: What is worth knowing although the run is healthy.
        history: The signals that were measured.
        outcome: What the run learned.
        trials: The same run with one thing changed, where it had to be found out what is at fault.
    """

    findings: list[Finding]
    advice: list[Finding]
    history: History
    outcome: Outcome
    trials: Sequence[Trial] = ()
    log: Log = field(repr=False, default_factory=Log)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def symptoms(self) -> set[Symptom]:
        """Symptoms of all findings and of what followed from them."""
        return {symptom for finding in self.findings for symptom in finding.symptoms}

    def to_dict(self) -> dict[str, Any]:
        """Return findings and advice as what JSON can hold; NaN and infinity become texts."""
        learned = [(t.name, t.learned) for t in self.trials]
        return {
            "healthy": self.healthy,
            "symptoms": sorted(self.symptoms),
            "findings": json.loads(to_json(self.findings)),
            "advice": json.loads(to_json(self.advice)),
            "trials": [
                {"name": name, "learned": share if math.isfinite(share) else str(share)}
                for name, share in learned
            ],
        }

    def report(self, path: str | Path = "diagnosis.html") -> Path:
        """Write findings and signals as one HTML page, and return where.

        Args:
            path: The page.

        Raises:
            ConfigError: pyarrow is missing, or the page cannot be written.
        """
        from trimtab.report import write_report
        from trimtab.signals import RunWriter

        with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
            writer = RunWriter(Path(folder) / "diagnosis", info=self.log.info)
            for record in self.log.records:
                record.append_to(writer)
            for finding in self.findings:
                note_finding(writer, finding)
            writer.close()
            return write_report([Path(folder) / "diagnosis"], Path(path))

    def __str__(self) -> str:
        """Return all findings as text."""
        if self.healthy:
            return "healthy: nothing found"
        return render_text(self.findings)
