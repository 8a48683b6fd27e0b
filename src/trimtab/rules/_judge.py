"""The judge: asks the rules while a run goes on, and keeps what they find."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from trimtab.findings import Evidence, Finding, Rule, Severity, merge
from trimtab.rules._all import run_rules
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._setup import EMPTY, Setup
from trimtab.signals import NonfiniteSource, RunWriter, StepRecord

CHECK_EVERY: Final = 10
"""Steps between two checks where nothing but the steps themselves is recorded."""

_LEVELS: Final = {Severity.ERROR: "bad", Severity.WARNING: "warn", Severity.ADVICE: "plain"}

_SOURCES: Final = {
    "input": "nonfinite-input",
    "parameter": "nonfinite-activation",
    "activation": "nonfinite-activation",
    "loss": "nonfinite-loss",
    "gradient": "nonfinite-gradient",
}
_SOURCE_FIXES: Final = {
    "input": "look at this example of the data, and drop or clean what is not finite",
    "parameter": "go back to a checkpoint from before, and guard the steps: the guard of attach()",
    "activation": "look for a log, a root, a division or an overflow in this module",
    "loss": "look for a log, a root or a division in the loss, and clamp what goes into it",
    "gradient": "look for a root, a norm or a division at 0 behind this parameter",
}

Listener = Callable[[Finding], None]


class Judge:
    """Rules over the signals of one run. A sink of a recorder.

    Args:
        setup: What is fixed about the run.
        rules: That are asked; None for all that are registered.
        listeners: Called once for each fault and site, when it is first found.
        every: Steps between two checks.
    """

    def __init__(
        self,
        setup: Setup = EMPTY,
        *,
        rules: Sequence[Rule] | None = None,
        listeners: Sequence[Listener] = (),
        every: int = CHECK_EVERY,
    ) -> None:
        chosen = run_rules() if rules is None else rules
        self.rules: Final = [rule for rule in chosen if isinstance(rule, RunRule)]
        self.listeners: Final = list(listeners)
        self.history: Final = History(setup)
        self._every = every
        self._found: dict[tuple[str, str], Finding] = {}
        self._broken: set[str] = set()

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far: one finding for each cause, most causal first."""
        return merge(f for f in self._found.values() if f.severity is not Severity.ADVICE)

    @property
    def advice(self) -> list[Finding]:
        """What is worth knowing, although it does no harm."""
        return merge(f for f in self._found.values() if f.severity is Severity.ADVICE)

    @property
    def all_findings(self) -> list[Finding]:
        """Everything found so far, as it was found: one finding for each fault and site."""
        return list(self._found.values())

    @property
    def healthy(self) -> bool:
        """Whether there is nothing but advice."""
        return all(f.severity is Severity.ADVICE for f in self._found.values())

    def see(self, record: StepRecord) -> None:
        """Take in one step, and ask the rules if there is something new to judge."""
        self.history.add(record)
        loss = record.values.get("loss", 0.0)
        odd = math.isinf(loss) or bool(record.values.get("step.skipped"))
        if odd or "parameters" in record.tables or record.step % self._every == 0:
            self.check()

    def check(self) -> None:
        """Ask all rules now."""
        new = [finding for finding in self._ask() if self._keep(finding)]
        for finding in new:  # when all are known, so that a listener can tell causes from effects
            self._announce(finding)

    def is_cause(self, finding: Finding) -> bool:
        """Tell whether nothing that was found so far explains this."""
        return any((f.code, f.place) == (finding.code, finding.place) for f in self.findings)

    def _ask(self) -> Iterator[Finding]:
        for rule in self.rules:
            if rule.code in self._broken:
                continue
            try:
                found = list(rule.check(self.history))
            except Exception as error:  # noqa: BLE001 # a rule must never end a run
                self._broken.add(rule.code)
                warnings.warn(
                    f"The rule {rule.code} {rule.name} failed and is left out from now on: "
                    f"{type(error).__name__}: {error}",
                    UserWarning,
                    stacklevel=2,
                )
                continue
            yield from found

    def see_source(self, step: int, source: NonfiniteSource) -> None:
        """Take in where a value that is not finite came from, as `locate_nonfinite` found it."""
        name = _SOURCES[source.kind]
        rule = next((rule for rule in self.rules if rule.name == name), None)
        if rule is None:
            return
        self.add(
            rule.finding(
                what=f"the {source} was NaN or infinite, the first in the order of the step",
                site=source.site,
                step=step,
                evidence=(
                    Evidence(name="examples that are not finite", value=source.num_rows, normal="0")
                    if source.num_rows
                    else Evidence(name="value", value="not finite", normal="finite"),
                ),
                cause="everything that is computed from it is not finite either",
                fix=_SOURCE_FIXES[source.kind],
            )
        )

    def add(self, finding: Finding) -> None:
        """Take in a finding, also one that was made elsewhere."""
        if self._keep(finding):
            self._announce(finding)

    def _keep(self, finding: Finding) -> bool:
        """Keep a finding; returns whether it is new, or graver than before."""
        key = (finding.code, finding.place)
        seen = self._found.get(key)
        if seen is None:
            self._found[key] = finding
            return True
        graver = finding.severity.rank < seen.severity.rank
        kept = finding.with_(step=seen.step) if graver else seen
        self._found[key] = kept.with_(count=seen.count + 1)
        return graver

    def _announce(self, finding: Finding) -> None:
        for listener in self.listeners:
            listener(finding)

    def state_dict(self) -> dict[str, Any]:
        """Return what later judgements depend on."""
        return {
            "history": self.history.state_dict(),
            "found": [finding.to_dict() for finding in self._found.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; what was found then is not announced again."""
        self.history.load_state_dict(state["history"])
        found = [Finding.from_dict(each) for each in state["found"]]
        self._found = {(f.code, f.place): f for f in found}


def note_finding(writer: RunWriter, finding: Finding) -> None:
    """Note a finding in a run folder, where the report looks for it."""
    known = finding.to_dict()
    shown = {name: known[name] for name in ("code", "name", "site", "what", "fix")}
    shown |= {"level": _LEVELS[finding.severity], "why": finding.cause}
    shown["evidence"] = "; ".join(str(each) for each in finding.evidence)
    writer.event(finding.step or 0, "finding", **shown, finding=known)
