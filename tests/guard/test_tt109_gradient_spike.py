from trimtab.findings import Fix, Severity, Symptom
from trimtab.guard.tt109_gradient_spike import GradientSpike

CAUSE = "A few gradients were so large that their steps broke the run; clipped, it goes on."
FIX = (
    "clip gradients to a norm near the usual one, or let the threshold follow the norms: AutoClip, "
    "ZClip"
)


def clipped(change):
    return change.clip is not None


def test_says_what_is_wrong(investigate):
    verdict = investigate(clipped).run()

    finding = verdict.finding
    assert (finding.code, finding.name) == (GradientSpike.code, "gradient-spike")
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.EXPLODING_GRADIENT)
    assert finding.step == 61
    assert finding.what == (
        "loss 90 and gradient norm 70, which do not happen with gradients clipped to 2"
    )
    assert (finding.cause, finding.fix) == (CAUSE, FIX)
    assert finding.remedy == Fix(action="clip_gradients", args={"max_norm": 2.0})
    assert verdict.change.clip == 2.0  # the usual norm of before


def test_the_run_goes_on_clipped(make_job):
    """What the replay showed is kept up: gradients stay below this norm."""
    job = make_job(clip=None, optimizer="sgd")
    job.run(1, 40)
    job.guard.norm_limit = 1e-3
    before = [p.detach().clone() for p in job.model.parameters()]

    job.run(41, 41)

    moved = sum(
        (p.detach() - q).square().sum() for p, q in zip(job.model.parameters(), before, strict=True)
    )
    assert float(moved.sqrt()) <= 0.1 * 1e-3 * 1.001  # rate times limit
    assert job.results[-1].grad_norm > 1e-3


def test_is_silent_where_leaving_out_one_batch_is_enough(investigate):
    verdict = investigate(lambda change: clipped(change) or 60 in change.without).run()

    assert verdict.finding.code == "TT512"


def test_is_silent_where_the_run_clips_lower_anyway(investigate):
    case = investigate(clipped)
    case.replayer.max_norm = 1.0

    assert case.run().finding.code == "TT310"
