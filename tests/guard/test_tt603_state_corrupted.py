import pytest
from tests.guard.conftest import change_gradient, change_weight, kinds, once, spoilt

from trimtab.findings import Severity, Symptom
from trimtab.guard.tt603_state_corrupted import StateCorrupted

CAUSE = "Something outside changed the state: the same steps, made again, go well."
FIX = (
    "test the machine (memory, device) and take it out of service if it happens again; look for "
    "code that changes parameters between steps"
)


def test_says_what_is_wrong(make_job):
    job = make_job()
    job.run(1, 80, before=once(60, lambda: change_weight(job)))

    (finding,) = job.guard.findings
    assert (finding.code, finding.name) == (StateCorrupted.code, "state-corrupted")
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.DIVERGENCE)
    assert finding.step == 60
    loss, norm = (e.value for e in finding.evidence)
    assert finding.what == (
        f"loss {loss:.4g} and gradient norm {norm:.4g}, which did not happen again when the same "
        "steps were replayed"
    )
    assert (finding.cause, finding.fix, finding.remedy) == (CAUSE, FIX, None)


def test_the_replay_tells_from_which_step_on_it_differs(make_job):
    job = make_job()
    job.run(1, 80, before=once(60, lambda: change_weight(job)))

    row = job.incidents[0].experiments[-1]
    assert (row.healed, row.reproduced) == (True, False)
    assert row.note == "differs from step 60 on"
    assert job.incidents[0].suspects == {"steps": [60]}


def test_a_gradient_that_changed_is_one_too(make_job):
    job = make_job()
    job.run(1, 80, before=once(60, lambda: change_gradient(job)))

    assert kinds(job) == [(60, "skip", "TT603")]


@pytest.mark.parametrize("kind", ["nan", "garbage labels"])
def test_is_silent_on_a_run_that_repeats(make_job, kind):
    job = make_job().run(1, 80, bad=spoilt(kind, 60, 61, 62))

    assert [code for *_, code in kinds(job)] == ["TT512"]
