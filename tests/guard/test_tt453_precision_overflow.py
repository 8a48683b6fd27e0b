import pytest
import torch
from tests.guard.conftest import Job, kinds
from torch import nn

from trimtab import Stepper
from trimtab.findings import Evidence, Fix, Severity, Symptom
from trimtab.guard.tt453_precision_overflow import PrecisionOverflow

CAUSE = "A value left the range of the 16-bit format; in float32 the same step is sound."
FIX = (
    "train in bfloat16, which has the range of float32, or keep the operation in float32 with "
    "`torch.autocast(..., enabled=False)`"
)


def normalising(precision, **options):
    """Return a run whose first layer is normalised, so that the scale of its inputs is all one."""
    job = Job(guard=None)
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        job.model = nn.Sequential(
            nn.Linear(8, 32, bias=False), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 1)
        )
    job.optimizer = torch.optim.Adam(job.model.parameters(), lr=0.01)
    job.stepper = Stepper(
        job.model, job.optimizer, schedule="constant", precision=precision, **options
    )
    return job


def in_other_units(step, x, y):
    return (x * 1e6 if step >= 60 else x), y


def test_says_what_is_wrong():
    job = normalising("fp16").run(1, 80, bad=in_other_units)

    (incident,) = job.incidents
    finding = incident.finding
    assert (finding.code, finding.name) == (PrecisionOverflow.code, "precision-overflow")
    assert (finding.severity, finding.symptom) == (Severity.ERROR, Symptom.NAN)
    assert finding.step == 60
    assert finding.what == "loss nan and gradient norm nan, which do not happen in fp32"
    assert [type(e) for e in finding.evidence] == [Evidence, Evidence]
    assert (finding.cause, finding.fix) == (CAUSE, FIX)
    assert finding.remedy == Fix(action="set_precision", args={"precision": "fp32"})
    assert [(str(e.change), e.healed) for e in incident.experiments] == [
        ("without the data of steps 60 to 62", True),
        ("in fp32", True),
    ]


def test_the_run_goes_on_in_float32():
    job = normalising("fp16").run(1, 80, bad=in_other_units)

    assert job.stepper.precision == "fp32"
    assert [r.skipped for r in job.results[58:]] == [False] + 3 * [True] + 18 * [False]
    assert job.incidents[0].action == (
        "Its data are left out; the state is sound. From now on it runs in fp32."
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_is_silent_in_formats_with_the_range_of_float32(precision):
    job = normalising(precision).run(1, 80, bad=in_other_units)

    assert kinds(job) == []


def test_is_silent_on_data_that_are_bad_in_float32_too():
    job = normalising("fp16")
    job.run(1, 80, bad=lambda step, x, y: (x, y * float("nan") if step in {60, 61, 62} else y))

    assert [code for *_, code in kinds(job)] == ["TT512"]


def test_one_step_is_left_out_and_named():
    job = normalising("fp16")
    job.run(1, 80, bad=lambda step, x, y: (x * 1e6 if step == 60 else x, y))

    assert kinds(job) == [(60, "skip", "TT453")]
    assert job.incidents[0].finding.what == (
        "loss nan and gradient norm nan, which do not happen in fp32"
    )
    assert job.stepper.precision == "fp16"  # once is no reason to change it
