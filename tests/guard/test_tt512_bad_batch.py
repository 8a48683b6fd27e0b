import pytest
from tests.guard.conftest import kinds, spoilt

from trimtab.findings import Fix, Severity, Symptom
from trimtab.guard.tt512_bad_batch import BadBatch

CAUSE = "The data of these steps are at fault: without them the incident does not happen."
FIX = "look at these examples; the incident's folder has them. Filter such data out of the set"


def test_says_what_is_wrong(make_job):
    job = make_job().run(1, 70, bad=spoilt("nan", 60))

    (finding,) = job.guard.findings
    assert (finding.code, finding.name) == (BadBatch.code, "bad-batch")
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.LOSS_SPIKE)
    assert finding.step == 60
    assert finding.what == (
        "loss nan and gradient norm nan, which do not happen without the data of step 60"
    )
    assert [e.name for e in finding.evidence] == ["loss", "gradient norm"]
    assert finding.evidence[0].normal.startswith("<= ")
    assert (finding.cause, finding.fix) == (CAUSE, FIX)
    assert finding.remedy == Fix(action="skip_batch", args={"steps": [60]})


def test_several_are_proved_by_the_state_that_is_sound(make_job):
    job = make_job().run(1, 80, bad=spoilt("garbage labels", 60, 61, 62))

    (incident,) = job.incidents
    assert incident.finding.code == "TT512"
    assert incident.finding.what.endswith("without the data of steps 60 to 62")
    (row,) = incident.experiments
    assert row.healed
    assert row.probe < 2 * incident.limits["loss_level"]


def test_one_that_was_accepted_is_found_by_leaving_it_out(investigate):
    verdict = investigate(lambda change: 57 in change.without).run()

    assert verdict.finding.code == "TT512"
    assert verdict.finding.what == (
        "loss 90 and gradient norm 70, which do not happen without the data of step 57"
    )


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_is_silent_on_a_loss_within_its_spread(make_job, scale):
    job = make_job(seed=2)

    job.run(1, 100, bad=lambda step, x, y: (x, y * scale if step == 60 else y))

    assert kinds(job) == []
