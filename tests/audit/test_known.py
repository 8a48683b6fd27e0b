import pytest
import torch

from trimtab.audit._known import known_faults
from trimtab.audit._split import SplitBatch
from trimtab.findings import Evidence, Finding, Fix

RIGHT = (0.1, 0.2, 0.3, 0.4)
COMMON = {"severity": "error", "symptom": "silent_config_error"}


def split(got=RIGHT, **changes):
    given = {"sizes": (2, 4, 6, 8), "right_error": 0.0, "got_error": 0.0, "noise": 1e-7}
    vectors = {"right": torch.tensor(RIGHT).double(), "got": torch.tensor(got).double()}
    return SplitBatch(**(given | {"condition": 2.0} | vectors | changes))


@pytest.mark.parametrize("got", [(1, 1, 1, 1), (0.4, 0.8, 1.2, 1.6)])
def test_undivided(got):
    (found,) = known_faults(split(got))

    assert (found.code, found.name) == ("TT414", "accumulation-not-divided")
    assert found.what == "the gradient of 4 micro-batches is 4 times that of the whole batch"
    assert found.remedy == Fix(action="divide_loss", args={"by": 4})


def test_cleared_too_early():
    assert list(known_faults(split((0, 0, 0, 1)))) == [
        Finding(
            code="TT421",
            name="gradients-cleared-too-early",
            severity="error",
            symptom="no_learning",
            what="only the last of 4 micro-batches is in the gradient",
            evidence=(Evidence(name="micro-batches in the gradient", value=1, normal="4"),),
            cause="gradients are cleared before every backward(), so that nothing accumulates",
            fix="call optimizer.zero_grad() once for each optimizer.step(), not for each "
            "micro-batch",
            remedy=Fix(action="clear_gradients"),
        )
    ]


def test_left_over():
    assert list(known_faults(split(left_over=0.9))) == [
        Finding(
            code="TT420",
            name="gradients-not-cleared",
            **COMMON,
            what="the second window holds 0.9 times the gradient of the first",
            evidence=(Evidence(name="weight of earlier gradients", value=0.9, normal="0"),),
            cause="gradients of earlier steps are left over and go into the next step again",
            fix="call optimizer.zero_grad() after every optimizer.step()",
            remedy=Fix(action="clear_gradients"),
        )
    ]


@pytest.mark.parametrize(
    "quiet",
    [
        split(),
        split(left_over=0.01),
        split((0.25,) * 4),
        split((3, 3, 3, 3)),
        split((0, 0.2, 0.3, 0.4)),
        split((1, 1, 1, 1), right_error=0.1),
    ],
)
def test_silent_on_everything_else(quiet):
    assert list(known_faults(quiet)) == []
