"""An incident: what went bad in a run, what the guard did, and the replays that prove the cause."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, Self, get_args

from trimtab.errors import ConfigError
from trimtab.findings import Finding
from trimtab.findings._render import plain
from trimtab.guard._change import Change

Kind = Literal["skip", "rollback", "stop", "observed"]
"""What the guard did: left steps out, went back to a snapshot, ended the run, or only looked on."""

ODD_NUMBERS: Final = frozenset({"nan", "inf", "-inf"})
"""What stands in JSON, which has no word for them, in place of numbers that are not finite."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One replay of the last steps: what was changed, and whether the incident happened again."""

    change: Change
    """What the replay did otherwise than the run; nothing in the first of them."""
    steps: tuple[int, ...]
    """Numbers of the steps, from the snapshot to the incident."""
    losses: tuple[float, ...]
    """Loss of each step."""
    norms: tuple[float, ...]
    """Gradient norm of each step before clipping."""
    probe: float
    """Mean loss of healthy batches after the replay; NaN if it was not asked for."""
    healed: bool
    """Whether the incident did not happen."""
    reproduced: bool | None
    """Whether each loss and norm is bit for bit as recorded; None where something was changed."""
    seconds: float
    """How long the replay took."""
    note: str = ""
    """What else there is to say, such as why it was broken off."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as what strict JSON can hold; NaN and infinity become texts."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return _plain(values | {"change": self.change.to_dict(), "words": str(self.change)})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_dict` was called on; keys that are not known are passed over."""
        known = _known(cls, data)
        known["change"] = Change.from_dict(known["change"])
        known["steps"] = tuple(int(step) for step in known["steps"])
        for name in ("losses", "norms"):
            known[name] = tuple(float(value) for value in known[name])
        for name in ("probe", "seconds"):
            known[name] = float(known[name])
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Incident:
    """What went bad in a run, why, what was done about it and what it cost.

    Raises:
        ConfigError: `kind` is unknown.
    """

    step: int
    """The first step that was bad."""
    detected: int
    """The step at which the guard acted."""
    kind: Kind
    """What the guard did, in a word."""
    finding: Finding
    """The named cause."""
    action: str
    """What was done, in words, such as "went back to step 140 and left out its batch"."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """`loss_level`, `loss_limit`, `norm_level` and `norm_limit` before the incident."""
    signals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """`step`, `loss`, `gradient.norm`, `learning_rate`, `skipped` and others around the event, one
    value a step; about 100 steps before it are enough."""
    experiments: tuple[Experiment, ...] = ()
    """The replays, in the order in which they were made."""
    snapshot_step: int | None = None
    """The step after which the snapshot was taken from which steps are replayed; None without."""
    lost_steps: int = 0
    """Steps whose updates are gone: those skipped or gone back over."""
    suspects: Mapping[str, Any] = field(default_factory=dict)
    """What was found to be at fault, such as `{"steps": [151], "rows": [3], "row_losses": [...]}`;
    what JSON can hold."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(
                f"kind of an incident must be one of {', '.join(get_args(Kind))}, got "
                f"{self.kind!r}."
            )

    @property
    def name(self) -> str:
        """What its folder is called, such as `step-00000151`."""
        return f"step-{self.step:08d}"

    def __str__(self) -> str:
        """Return it in one line."""
        return f"Incident at step {self.step}: {self.finding.message} {self.action}".strip()

    def to_dict(self) -> dict[str, Any]:
        """Return it as what strict JSON can hold; NaN and infinity become texts."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["finding"] = self.finding.to_dict()
        values["experiments"] = [each.to_dict() for each in self.experiments]
        return _plain(values)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_dict` was called on; keys that are not known are passed over.

        Numbers that are not finite are read back from their texts, among the suspects too.
        """
        known = _known(cls, data)
        known["finding"] = Finding.from_dict(known["finding"])
        known["limits"] = {k: float(v) for k, v in known.get("limits", {}).items()}
        signals = known.get("signals", {})
        known["signals"] = {name: [float(v) for v in values] for name, values in signals.items()}
        rows = known.get("experiments", ())
        known["experiments"] = tuple(Experiment.from_dict(row) for row in rows)
        known["suspects"] = _numbers(known.get("suspects", {}))
        return cls(**known)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = plain(values)
    return found


def _known(cls: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in data.items() if name in names}


def _numbers(value: Any) -> Any:
    """Return a value of JSON with the numbers that it had to spell out."""
    if isinstance(value, Mapping):
        return {name: _numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return float(value) if isinstance(value, str) and value in ODD_NUMBERS else value
