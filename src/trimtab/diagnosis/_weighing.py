"""Which findings count: what harms every run, what harms only one that fails, what was proven."""

from collections.abc import Sequence
from typing import Final

from trimtab.diagnosis._job import Log
from trimtab.diagnosis._outcome import Outcome
from trimtab.findings import Finding, Severity, explains, merge

SOFT: Final = frozenset(
    {
        "TT006", "TT007", "TT017", "TT018", "TT020", "TT103", "TT108", "TT304", "TT305", "TT306",
        "TT418", "TT432", "TT435", "TT505",
    }
)  # fmt: skip
"""What harms some runs and not others: said only of a run that fails."""

EXTREME: Final = frozenset({"TT007", "TT432", "TT435"})
"""What is soft, but so far from any norm that a run which is less than sound hears of it."""

AFTERWARDS: Final = frozenset({"TT404", "TT405", "TT409"})
"""What updates that are too large leave behind."""

PROMOTED: Final = frozenset({"TT014"})
"""What is advice in itself, and a cause where nothing else explains a run that fails."""

BELIEVED: Final = frozenset({"TT432", "TT435"})
"""What is soft and needs no trial to be believed of a run that fails."""

CAUSES: Final = (
    "TT0", "TT404", "TT405", "TT409", "TT413", "TT414", "TT415", "TT417", "TT419", "TT42", "TT432",
    "TT434", "TT435", "TT5", "TT6", "TT7",
)  # fmt: skip
"""Codes of faults that need no trial to be believed, unless they are soft."""

SUSPICIOUS: Final = ("TT1", "TT2", "TT3", "TT401", "TT406", "TT407")
"""Codes of what shows that a run suffers; whether it fails, its outcome tells."""

LOOKS: Final = ("TT1", "TT2", "TT401", "TT402", "TT403", "TT406", "TT407")
"""Codes of what a run looks like on its way; one that has learned its task need not care."""

NONFINITE: Final = frozenset({"TT107", "TT207"})
"""Among them, what no run may shrug off."""

ENOUGH: Final = 0.5
"""Share of the loss taken off from which on a run is sound, whatever it looks like on the way."""


def _is_soft(finding: Finding) -> bool:
    """Tell whether a finding counts only if the run fails."""
    if finding.severity is Severity.ERROR:
        return False
    first = finding.evidence[0].name if finding.evidence else ""
    return finding.code in SOFT and first != "first loss"  # which is known to be far too high


def _is_shown(finding: Finding, found: Sequence[Finding]) -> bool:
    """Tell whether what a soft finding would bring about was seen."""
    hard = (f for f in found if f.severity is not Severity.ADVICE and not _is_soft(f))
    return any(explains(finding, f) for f in hard)


def is_cause(finding: Finding, found: Sequence[Finding] = ()) -> bool:
    """Tell whether a finding explains a failure without a trial.

    Args:
        finding: It.
        found: All of them: gradients that vanish after updates that were too large are no cause.
    """
    if finding.code in AFTERWARDS and any(f.code == "TT401" for f in found):
        return False
    hard = finding.code not in SOFT or finding.code in BELIEVED
    believed = hard and finding.code.startswith(CAUSES)
    return believed and finding.severity is not Severity.ADVICE


def has_failed(outcome: Outcome, log: Log) -> bool:
    """Tell whether the run as such went wrong, whatever its set-up and its layers look like."""
    return log.error is not None or outcome.broken or outcome.worse or outcome.learned_nothing


def is_ailing(outcome: Outcome, found: Sequence[Finding]) -> bool:
    """Tell whether layers or losses look ill, and the run has not learned well all the same."""
    ill = [f for f in found if f.code.startswith(SUSPICIOUS)]
    return not outcome.learned >= ENOUGH and any(f.severity is not Severity.ADVICE for f in ill)


def sorted_out(
    found: Sequence[Finding], proven: Finding | None, *, failed: bool, sound: bool | None
) -> tuple[list[Finding], list[Finding]]:
    """Separate what is wrong from what is worth knowing.

    Args:
        found: Everything.
        proven: What a trial has shown to be the cause.
        failed: Whether the run failed.
        sound: Whether it has learned what there was to learn; None if that cannot be told.
    """
    wrong, advice = [], []
    for finding in found:
        if finding.code.startswith(LOOKS) and sound and finding.code not in NONFINITE:
            advice.append(finding.with_(severity=Severity.ADVICE))
            continue
        other = proven is not None and proven.code != finding.code
        plain = finding.code in EXTREME and sound is False
        believed = failed or plain or _is_shown(finding, found)
        doubted = _is_soft(finding) and (other or not believed)
        if finding.code in PROMOTED and failed and proven is None:
            wrong.append(finding.with_(severity=Severity.WARNING))
        elif finding.severity is Severity.ADVICE or doubted:
            advice.append(finding.with_(severity=Severity.ADVICE))
        else:
            wrong.append(finding)
    return wrong, advice


def merged(found: Sequence[Finding], proven: Finding | None) -> list[Finding]:
    """Return one finding for each cause; what a trial has proven comes first."""
    if proven is None:
        return merge(found)
    others = merge(f for f in found if f.code != proven.code)
    effects = [f for f in others if f.code.startswith(("TT1", "TT2", "TT3", "TT4"))]
    rest = [f for f in others if f not in effects]
    same = [f for f in found if f.code == proven.code]
    steps = [f.step for f in [*same, *effects] if f.step is not None]
    first = proven.with_(
        step=proven.step if proven.step is not None or not steps else min(steps),
        site=proven.site or (same[0].site if same else ""),
        consequences=tuple(effects),
    )
    return [first, *rest]
