from trimtab.findings import Fix, Severity, Symptom
from trimtab.guard.tt451_steps_too_long import StepsTooLong

CAUSE = "The run breaks at its learning rate, and does not at half of it."


def halved(change):
    return change.lr == 0.5


def test_says_what_is_wrong(investigate):
    finding = investigate(halved).run().finding

    assert (finding.code, finding.name) == (StepsTooLong.code, "steps-too-long")
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.DIVERGENCE)
    assert finding.what == (
        "loss 90 and gradient norm 70, which do not happen with learning rate × 0.5"
    )
    assert (finding.cause, finding.fix) == (
        CAUSE,
        "lower the peak learning rate, or warm up longer",
    )
    assert finding.remedy == Fix(action="scale_learning_rate", args={"factor": 0.5})


def test_a_rate_that_grows_past_what_the_loss_bears(findings_of):
    """End to end; no step of it is twice the one before, and no batch is at fault."""
    findings = findings_of(StepsTooLong.example)

    assert "TT451" in {finding.code for finding in findings}


def test_is_silent_on_a_rate_that_the_loss_bears(findings_of):
    assert findings_of(StepsTooLong.example.replace("*= 1.2", "*= 1.0")) == []


def test_is_silent_where_the_rate_has_jumped(investigate):
    case = investigate(
        lambda change: halved(change) or change.lr_cap is not None,
        rates=lambda step: 0.1 if step < 60 else 10.0,
    )

    assert case.run().finding.code == "TT450"
