"""The judge: asks the rules while a run goes on, and keeps what they find."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Final

from trimtab.findings import Finding, Rule, Severity, merge, registered
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._setup import EMPTY, Setup
from trimtab.signals import StepRecord

CHECK_EVERY: Final = 10
"""Steps between two checks where nothing but the steps themselves is recorded."""

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
        chosen = [rule() for rule in registered("run").values()] if rules is None else rules
        self.rules: Final = [rule for rule in chosen if isinstance(rule, RunRule)]
        self.listeners: Final = list(listeners)
        self.history: Final = History(setup)
        self._every = every
        self._found: dict[tuple[str, str], Finding] = {}
        self._broken: set[str] = set()

    @property
    def findings(self) -> list[Finding]:
        """What was found so far: one finding for each cause, most causal first."""
        return merge(self._found.values())

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
            for finding in found:
                self.add(finding)

    def add(self, finding: Finding) -> None:
        """Take in a finding, also one that was made elsewhere."""
        key = (finding.code, finding.place)
        seen = self._found.get(key)
        if seen is None:
            self._found[key] = finding
            for listener in self.listeners:
                listener(finding)
        else:
            self._found[key] = seen.with_(count=seen.count + 1)
