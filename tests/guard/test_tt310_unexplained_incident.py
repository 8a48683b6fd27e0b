from tests.guard.conftest import change_weight, kinds, once, spoilt

from trimtab.findings import Severity, Symptom
from trimtab.guard import Guard
from trimtab.guard.tt310_unexplained_incident import UnexplainedIncident

CAUSE = "The run was put back; no single change was found that removes the incident."
FIX = (
    "look at the incident's page: what every replay did is in its table. Then lower the learning "
    "rate, or warm up longer"
)


def test_says_what_is_wrong(investigate):
    finding = investigate(lambda _change: False).run().finding

    assert (finding.code, finding.name) == (UnexplainedIncident.code, "unexplained-incident")
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.LOSS_SPIKE)
    assert finding.what == "loss 90 and gradient norm 70, and none of 5 replays removed it"
    assert (finding.cause, finding.fix, finding.remedy) == (CAUSE, FIX, None)


def test_without_replays_nothing_is_explained(make_job):
    job = make_job(guard=Guard(explain=False))
    job.run(1, 80, before=once(60, lambda: change_weight(job)))

    ((_, kind, code),) = kinds(job)
    assert (kind, code) == ("rollback", "TT310")
    assert job.guard.findings[0].what.endswith(
        "; nothing could be replayed: the guard was made with explain=False"
    )


def test_is_silent_where_one_change_helps(make_job):
    job = make_job().run(1, 80, bad=spoilt("garbage labels", 60, 61, 62))

    assert [code for *_, code in kinds(job)] == ["TT512"]
