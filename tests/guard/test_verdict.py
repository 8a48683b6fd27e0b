import dataclasses

import pytest

from trimtab.guard import Limits
from trimtab.guard._naming import describe
from trimtab.guard._verdict import Verdict
from trimtab.guard.tt310_unexplained_incident import UnexplainedIncident


def test_says_nothing_that_was_not_found_out():
    finding = describe(UnexplainedIncident(), None, Limits(), None, 61, num_replays=0)
    verdict = Verdict(finding=finding, experiments=(), change=None, restored=False)

    assert (verdict.snapshot, verdict.lost, verdict.suspects) == (None, frozenset(), {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.restored = True
