"""What the change that removed an incident says of its cause."""

import math

import pytest
import torch

from trimtab.findings import Evidence, Fix
from trimtab.guard import Change, Limits, MicroStep, TapeStep
from trimtab.guard._naming import candidates, describe, is_narrow, rates_at_jump, remedy_of
from trimtab.guard.tt310_unexplained_incident import UnexplainedIncident
from trimtab.guard.tt512_bad_batch import BadBatch


def steps_of(rates=None, *, precision="fp32", skipped=()):
    """Return steps 41 to 63, of which those from 61 on are bad."""
    rates = rates or (lambda _step: 0.1)
    return [
        TapeStep(
            number=number,
            micro_steps=[MicroStep(lambda: torch.zeros(()), 1.0, 1.0, None, precision=precision)],
            settings=[{"lr": rates(number)}],
            divisor=1.0,
            loss=1.0,
            norm=2.0,
            skipped=number in skipped,
            flagged=False,
        )
        for number in range(41, 64)
    ]


def named(steps, *, start=52, norm_level=2.0, max_norm=math.inf, caps_attention=False, which=None):
    pairs = candidates(
        steps,
        start=start,
        first_bad=61,
        limits=Limits(norm_level=norm_level),
        which=which,
        max_norm=max_norm,
        caps_attention=caps_attention,
    )
    return [(rule.code, change) for rule, change in pairs]


ALWAYS = [("TT451", Change(lr=0.5)), ("TT452", Change(fresh_moments=True))]


class TestCandidates:
    def test_come_with_the_change_that_would_remove_them_and_the_least_first(self):
        steps = steps_of(lambda step: 0.1 if step < 60 else 10.0, precision="bf16")

        assert named(steps, caps_attention=True) == [
            ("TT450", Change(lr_cap=0.1)),
            ("TT512", Change(without=frozenset(range(53, 61)))),
            ("TT109", Change(clip=2.0)),
            *ALWAYS,
            ("TT453", Change(precision="fp32")),
            ("TT209", Change(attention_cap=50.0)),
        ]

    def test_are_few_where_nothing_speaks_for_them(self):
        assert named(steps_of(), start=60, max_norm=1.0) == ALWAYS
        assert named(steps_of(), start=60, norm_level=math.nan) == ALWAYS

    def test_are_no_batches_that_were_left_out_anyway(self):
        (code, change), *_ = named(steps_of(skipped=(53, 60)))

        assert (code, change.without) == ("TT512", set(range(54, 60)))


def test_narrow_is_whatever_is_not_fp32():
    assert is_narrow(steps_of(precision="fp16"))
    assert not is_narrow(steps_of())
    assert not is_narrow([])


def test_the_rates_before_and_after_the_last_jump():
    def steps(*rates):
        return [
            TapeStep(i, [], [{"lr": r}, {"lr": r / 2}], 1.0, 1.0, 1.0, skipped=False, flagged=False)
            for i, r in enumerate(rates)
        ]

    assert rates_at_jump(steps(0.1, 0.1, 10.0, 10.0)) == (0.1, 10.0)
    assert rates_at_jump(steps(0.1, 1.0, 0.2, 5.0)) == (0.2, 5.0)
    assert rates_at_jump(steps(0.1, 0.19, 0.36)) is None  # a warm-up
    assert rates_at_jump(steps(0.0, 0.1)) is None  # its first step
    assert rates_at_jump(steps(0.1)) is None


def test_rates_of_several_optimizers_are_looked_at_by_themselves():
    """One is ten times the other, which is no jump."""

    def steps(*rates):
        return [
            TapeStep(i, [], [{"lr": r}], 1.0, 1.0, 1.0, skipped=False, flagged=False, which=i % 2)
            for i, r in enumerate(rates)
        ]

    def caps(*rates):
        return [c for code, c in named(steps(*rates), which=0) if code == "TT450"]

    assert rates_at_jump(steps(0.1, 1.0, 0.1, 1.0)) is None
    assert rates_at_jump(steps(0.1, 1.0, 0.1, 9.0)) == (1.0, 9.0)
    assert rates_at_jump(steps(0.1, 1.0, 0.1, 9.0), 0) is None
    assert caps(0.1, 1.0, 0.1, 9.0) == [Change(lr_cap=1.0, optimizer=1)]
    assert caps(0.1, 1.0, 3.0, 9.0) == [  # both, as by a schedule: together first
        Change(lr_cap=1.0),
        Change(lr_cap=0.1, optimizer=0),
        Change(lr_cap=1.0, optimizer=1),
    ]


LIMITS = Limits(loss=3.0, norm=5.0)
SEEN = TapeStep(61, [], [], 1.0, 90.0, 70.0, skipped=True, flagged=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, ", and none of 7 replays removed it"),
        (Change(), ", which did not happen again when the same steps were replayed"),
        (Change(without=frozenset({61})), ", which do not happen without the data of step 61"),
        (Change(precision="fp32"), ", which do not happen in fp32"),
        (Change(clip=2.0), ", which do not happen with gradients clipped to 2"),
    ],
)
def test_a_finding_says_what_was_seen_and_what_removed_it(change, words):
    finding = describe(BadBatch(), change, LIMITS, SEEN, 61, num_replays=7)

    assert finding.what == f"loss 90 and gradient norm 70{words}"
    assert finding.evidence == (
        Evidence(name="loss", value=90.0, normal="<= 3"),
        Evidence(name="gradient norm", value=70.0, normal="<= 5"),
    )
    assert finding.cause.startswith("The data of these steps are at fault")
    assert finding.fix.startswith("look at these examples")


def test_a_finding_of_a_step_that_nobody_kept():
    finding = describe(UnexplainedIncident(), None, LIMITS, None, 61, num_replays=0)

    assert finding.what == "loss nan and gradient norm nan; nothing could be replayed"
    assert (finding.code, finding.step, finding.remedy) == ("TT310", 61, None)


def test_a_finding_says_why_nothing_could_be_replayed():
    why = "there was no snapshot to replay from yet"
    finding = describe(UnexplainedIncident(), None, LIMITS, SEEN, 61, num_replays=0, why_not=why)

    assert finding.what == (
        "loss 90 and gradient norm 70; nothing could be replayed: there was no snapshot to replay "
        "from yet"
    )


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (None, None),
        (Change(), None),
        (Change(without=frozenset({62, 61})), Fix(action="skip_batch", args={"steps": [61, 62]})),
        (Change(lr=0.5), Fix(action="scale_learning_rate", args={"factor": 0.5})),
        (Change(lr_cap=0.1), Fix(action="set_learning_rate", args={"lr": 0.1})),
        (Change(clip=2.0), Fix(action="clip_gradients", args={"max_norm": 2.0})),
        (Change(precision="fp32"), Fix(action="set_precision", args={"precision": "fp32"})),
        (Change(fresh_moments=True), None),
    ],
)
def test_a_change_as_a_program_can_apply_it(change, remedy):
    assert remedy_of(change) == remedy
