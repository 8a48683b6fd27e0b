from tests.guard.conftest import jump, kinds, once

from trimtab.findings import Fix, Severity, Symptom
from trimtab.guard.tt450_rate_jump import RateJump

CAUSE = "The learning rate rose suddenly, and the run broke; held at its former level, it goes on."
FIX = (
    "look at what sets the learning rate at this step: the schedule's position after a resume, its "
    "unit (steps or epochs), or code that writes to the param groups"
)


def test_says_what_is_wrong(make_job):
    job = make_job()
    job.run(1, 80, before=once(60, lambda: jump(job)))

    (finding,) = job.guard.findings
    assert (finding.code, finding.name) == (RateJump.code, "rate-jump")
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.DIVERGENCE)
    loss, norm = (e.value for e in finding.evidence)
    assert finding.what == (
        f"loss {loss:.4g} and gradient norm {norm:.4g}, which do not happen with learning rate of "
        "at most 0.01"
    )
    assert (finding.cause, finding.fix) == (CAUSE, FIX)
    assert finding.remedy == Fix(action="set_learning_rate", args={"lr": 0.01})


def test_the_table_has_the_jump_repeated_before_it_is_held(make_job):
    job = make_job()
    job.run(1, 80, before=once(60, lambda: jump(job)))

    probed = [(str(e.change), e.healed) for e in job.incidents[0].experiments]
    assert probed == [("as it was", False), ("learning rate of at most 0.01", True)]
    assert job.incidents[0].experiments[0].reproduced


def test_is_silent_on_a_rate_that_rises_slowly(make_job):
    job = make_job(lr=1e-4)

    job.run(1, 120, before=lambda step: jump(job, factor=1.1) if step < 60 else None)

    assert kinds(job) == []
    assert job.results[-1].lr > 0.02


def test_is_silent_on_a_jump_that_does_no_harm(make_job):
    job = make_job(lr=1e-4)

    job.run(1, 120, before=once(60, lambda: jump(job, factor=20)))

    assert kinds(job) == []
