import pytest

from trimtab.findings import Severity, Symptom
from trimtab.guard import Change
from trimtab.guard.tt452_moments_out_of_date import MomentsOutOfDate

CAUSE = "The optimizer's memory made the run break; with fresh moments it goes on."
FIX = "lower beta2 (0.95 in place of 0.999), or use StableAdamW, which shortens such steps"


def test_says_what_is_wrong(investigate):
    finding = investigate(lambda change: change.fresh_moments).run().finding

    assert (finding.code, finding.name) == (MomentsOutOfDate.code, "moments-out-of-date")
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.LOSS_SPIKE)
    assert finding.what == (
        "loss 90 and gradient norm 70, which do not happen with fresh moments of the optimizer"
    )
    assert (finding.cause, finding.fix, finding.remedy) == (CAUSE, FIX, None)


def test_is_silent_where_half_the_rate_is_enough(investigate):
    verdict = investigate(lambda change: change.fresh_moments or change.lr == 0.5).run()

    assert verdict.finding.code == "TT451"


def test_the_replay_really_forgets_them(make_job):
    """A second moment from a time of tiny gradients makes a step that a fresh one does not."""
    job = make_job(guard="spike").run(1, 40)
    for state in job.optimizer.state.values():
        state["exp_avg_sq"].mul_(1e-8)
    job.guard._gear.take_snapshot(job.guard.number)
    job.run(41, 41)
    steps, before = job.guard.tape.since(40), job.guard.ring.newest()
    weights = []
    for change in (Change(), Change(fresh_moments=True)):
        job.guard.ring.restore(before)
        start = job.model[0].weight.detach().clone()
        job.guard.replayer.run(steps, change)
        weights.append(float((job.model[0].weight.detach() - start).abs().max()))

    assert weights[1] == pytest.approx(0.01, rel=1e-3)  # the rate, as in a run's first step
    assert weights[0] > 10 * weights[1]
