"""The guard: keep a run alive when a step, a batch or the state of training goes bad."""

from trimtab.guard._active import ActiveGuard
from trimtab.guard._buffers import BufferKeeper
from trimtab.guard._bundle import Bundle, list_bundles, read_bundle, write_bundle
from trimtab.guard._change import Change
from trimtab.guard._freeze import captured, freeze
from trimtab.guard._guard import Guard, GuardLike, as_guard
from trimtab.guard._incident import Experiment, Incident
from trimtab.guard._live import LiveState
from trimtab.guard._outcome import Outcome, Return
from trimtab.guard._policies import POLICIES, as_policy
from trimtab.guard._policy import Limits, Policy
from trimtab.guard._snapshots import Snapshot, SnapshotRing
from trimtab.guard._spike import Spike
from trimtab.guard._tape import MicroStep, OwnClip, Tape, TapeStep

__all__ = [
    "POLICIES",
    "ActiveGuard",
    "BufferKeeper",
    "Bundle",
    "Change",
    "Experiment",
    "Guard",
    "GuardLike",
    "Incident",
    "Limits",
    "LiveState",
    "MicroStep",
    "Outcome",
    "OwnClip",
    "Policy",
    "Return",
    "Snapshot",
    "SnapshotRing",
    "Spike",
    "Tape",
    "TapeStep",
    "as_guard",
    "as_policy",
    "captured",
    "freeze",
    "list_bundles",
    "read_bundle",
    "write_bundle",
]
