"""Which change heals a run: trials are made until the cause of a failure is known."""

import math
from collections.abc import Sequence
from typing import Final

from trimtab.diagnosis._job import Job
from trimtab.diagnosis._outcome import LEARNED, Outcome
from trimtab.diagnosis._proof import HEALED, finding_of, frozen_finding
from trimtab.diagnosis._trials import (
    Trial,
    Trials,
    frozen_share,
    has_odd_inputs,
    has_unusual_settings,
    strongest_dropout,
)
from trimtab.diagnosis.tt507_labels_unrelated import LabelsUnrelated
from trimtab.findings import Evidence, Finding

NEAR_BEST: Final = 0.7
"""Share of what the best trial learned from which a more specific change is believed instead."""

SLOW: Final = 0.05
"""Share of a trial's progress below which the run itself counts as slow."""

SUSPECT_DECAY: Final = 0.05
"""Weight decay from which on a run without it is tried: 0.01 is AdamW's default, 0.1 is usual for
language models."""

USUAL: Final = 1e-3
"""Ratio of updates to weights in a run that learns well (Karpathy 2022, makemore part 3)."""

FARTHEST: Final = 1e4
"""Largest factor of a learning rate that is guessed from how little the weights moved."""

UNSOUND: Final = frozenset(
    {
        "TT006", "TT007", "TT022", "TT101", "TT102", "TT103", "TT108", "TT201", "TT202", "TT204",
        "TT208",
    }
)  # fmt: skip
"""Codes of what initial weights can be the cause of."""

STRONG_DROPOUT: Final = 0.7
"""Dropout from which on a run with less of it is tried: up to 0.5 is usual."""

NEARLY_ALL: Final = 0.9
"""Share of frozen parameters at which a run that learns nothing needs no other explanation."""

MUCH: Final = 0.2
"""Share of the loss by which a trial has to beat a run that did not fail."""

CALM: Final = 1e-4
"""Median update ratio below which a learning rate is first tried higher."""


def find_cause(trials: Trials, suspects: set[str], *, failed: bool) -> Finding | None:
    """Return what is at fault, as far as trials can tell.

    Args:
        trials: Makes them.
        suspects: Codes of what was found before.
        failed: Whether the run failed; else it may only be slow.
    """
    _specific(trials, suspects, failed=failed)
    if not failed:
        return _better(trials) or _slow(trials)
    _rates(trials)
    healing = [t for t in trials.done if _is_sound(t, trials.base)]
    if healing:
        return finding_of(_choose(healing), trials.base)
    frozen = frozen_share(trials.job.model)
    if trials.base.learned_nothing and frozen >= NEARLY_ALL:
        return frozen_finding(frozen, trials.base)
    ill = any(code.startswith(("TT1", "TT2")) for code in suspects)
    if trials.base.learned_nothing and not (ill or trials.base.broken or trials.base.worse):
        return _unrelated(trials)
    return None


def is_odd(job: Job) -> bool:
    """Tell whether a setting is far from what anybody uses, and so worth a trial."""
    return has_unusual_settings(job.optimizer) or strongest_dropout(job.model) >= STRONG_DROPOUT


def _better(trials: Trials) -> Finding | None:
    """Return a finding if a usual setting in place of an odd one makes a far better run."""
    before = trials.base.learned
    better = [t for t in trials.done if t.learned >= before + MUCH]
    return finding_of(_choose(better), trials.base) if better else None


def _specific(trials: Trials, suspects: set[str], *, failed: bool) -> None:
    """Try what was suspected before, or is far from what anybody does."""
    groups = trials.job.optimizer.param_groups
    if has_unusual_settings(trials.job.optimizer):
        trials.optimizer()
    if strongest_dropout(trials.job.model) >= STRONG_DROPOUT:
        trials.dropout()
    if not failed:
        return
    if frozen_share(trials.job.model) > 0.5:
        trials.unfrozen()
    if "TT505" in suspects or has_odd_inputs(trials.batches.kept):
        trials.inputs()
    if any(float(g.get("weight_decay") or 0.0) >= SUSPECT_DECAY for g in groups):
        trials.decay()
    if suspects & UNSOUND:
        trials.initialisation()


def _rates(trials: Trials) -> None:
    """Try other learning rates, the likelier direction first, until one is sound."""
    lower = (0.1, 0.01, 0.001)
    if trials.base.broken or trials.base.worse:
        factors: tuple[float, ...] = lower
    elif trials.update_ratio < CALM:
        higher = 10.0 ** round(math.log10(USUAL / max(trials.update_ratio, USUAL / FARTHEST)))
        factors = (higher, 10 * higher, max(10.0, higher / 10), 0.1)
    else:
        factors = (0.1, 0.01, 10.0, 100.0)
    for factor in dict.fromkeys(factors):
        if _is_sound(trials.learning_rate(factor), trials.base):
            return


def _is_sound(trial: Trial, base: Outcome) -> bool:
    before = base.learned if math.isfinite(base.learned) else 0.0
    if base.broken or base.worse:
        before = 0.0
    return trial.learned >= max(HEALED, 2 * before, before + LEARNED)


def _choose(healing: Sequence[Trial]) -> Trial:
    best = max(t.learned for t in healing)
    near = [t for t in healing if t.learned >= NEAR_BEST * best]
    order = ["frozen", "optimizer", "decay", "dropout", "inputs", "initialisation", "lr"]
    return min(near, key=lambda t: order.index(t.kind))


def _slow(trials: Trials) -> Finding | None:
    """Return a finding if the run makes next to no progress beside trials at higher rates."""
    base = trials.base
    if base.start is None or base.end is None:
        return None
    own = base.start.loss - base.end.loss
    best: Trial | None = None
    for factor in (10.0, 100.0):
        trial = trials.learning_rate(factor)
        end = trial.outcome.end
        if end is None or trial.outcome.broken or trial.learned < HEALED:
            continue
        scaled = own * len(trial.outcome.losses) / max(1, len(base.losses))
        if scaled < SLOW * (base.start.loss - end.loss) and (
            best is None or trial.learned > best.learned
        ):
            best = trial
    return None if best is None else finding_of(best, base)


def _unrelated(trials: Trials) -> Finding | None:
    trial = trials.one_batch()
    if trial.learned < 0.5:
        return None
    base = trials.base
    return LabelsUnrelated().finding(
        what=f"one batch alone was learned ({trial.learned:.0%} off its loss), all batches "
        f"together were not ({max(0.0, base.learned):.0%})",
        site="batches",
        evidence=(
            Evidence(name="loss against shuffled targets over loss", value=base.knows + 1,
                     normal=f">= {1 + LEARNED}"),
        ),
        cause="the targets seem to have little to do with the inputs: shuffled apart, shifted, or "
        "random; or the task needs many more steps",
        fix="compare some examples with their labels, and shuffle inputs and labels together",
    )  # fmt: skip
