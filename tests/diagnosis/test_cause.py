import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trimtab.diagnosis._cause import find_cause
from trimtab.diagnosis._outcome import Outcome, Probe
from trimtab.diagnosis._trials import Trial
from trimtab.findings import Fix, Symptom


def outcome(end, *, start=1.1, shuffled=None, losses=(1.1,) * 50):
    """A run whose best constant answer has loss 1; `end` None is NaN."""
    if end is None:
        return Outcome(
            Probe(start, start, True), Probe(math.nan, math.nan, False), 1.0, [math.nan] * 50
        )
    after = Probe(end, end if shuffled is None else shuffled, True)
    return Outcome(Probe(start, start, True), after, 1.0, losses)


FLAT, DIVERGED, BROKEN = outcome(1.0), outcome(9.0), outcome(None)


class Scripted:
    """Trials whose results are known beforehand: shares of the loss, by what is changed."""

    def __init__(self, base, learned=None, *, ratio=1e-3, optimizer=None, frozen=False):
        self.base, self.learned, self.update_ratio = base, learned or {}, ratio
        self.done = []
        self.batches = SimpleNamespace(kept=[])
        model = nn.Linear(4, 4)
        model.weight.requires_grad_(not frozen)
        given = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
        self.job = SimpleNamespace(optimizer=given, model=model)

    def _try(self, kind, key, factor=1.0):
        share = self.learned.get(key, 0.0)
        result = outcome(None if share is None else 1 - share)
        trial = Trial(name=str(key), kind=kind, factor=factor, outcome=result)
        self.done.append(trial)
        return trial

    def learning_rate(self, factor):
        return self._try("lr", factor, factor)

    def unfrozen(self):
        return self._try("frozen", "frozen")

    def inputs(self):
        return self._try("inputs", "inputs")

    def decay(self):
        return self._try("decay", "decay")

    def optimizer(self):
        return self._try("optimizer", "optimizer")

    def initialisation(self):
        return self._try("initialisation", "initialisation")

    def one_batch(self):
        return self._try("batch", "batch")

    @property
    def tried(self):
        return [t.name for t in self.done]


def cause(trials, suspects=(), *, failed=True):
    return find_cause(trials, set(suspects), failed=failed)


@pytest.mark.parametrize(
    ("base", "how", "symptom"),
    [
        (BROKEN, "the run ended in NaN", Symptom.NAN),
        (DIVERGED, "the run ended above where it began", Symptom.DIVERGENCE),
        (FLAT, "the run learned nothing", Symptom.NO_LEARNING),
    ],
)
def test_a_lower_rate_that_heals_is_believed(base, how, symptom):
    found = cause(Scripted(base, {0.01: 0.8}))

    assert (found.code, found.symptom) == ("TT411", symptom)
    assert found.what == (
        f"{how}; with 0.01 times its learning rate it took 80% off the loss in 50 steps"
    )
    assert found.remedy == Fix(action="scale_learning_rate", args={"factor": 0.01})
    own, trial = found.evidence
    assert own.value == ("none: it broke" if base is BROKEN else base.learned)
    assert trial.value == pytest.approx(0.8)


def test_a_higher_rate_that_heals_is_believed():
    found = cause(Scripted(FLAT, {100.0: 0.8}, ratio=1e-5))

    assert (found.code, found.symptom) == ("TT412", Symptom.NO_LEARNING)
    assert found.remedy.args == {"factor": 100.0}


@pytest.mark.parametrize("base", [BROKEN, DIVERGED])
def test_a_run_that_blew_up_is_tried_at_lower_rates_alone(base):
    trials = Scripted(base)

    assert cause(trials) is None
    factors = [t.factor for t in trials.done if t.kind == "lr"]
    assert max(factors) < 1
    assert len(factors) >= 2


@pytest.mark.parametrize("ratio", [0.0, 1e-7, math.nan, 1e-3, math.inf])
def test_a_run_that_stood_still_is_tried_in_both_directions(ratio):
    trials = Scripted(FLAT, ratio=ratio)

    cause(trials)

    factors = [t.factor for t in trials.done if t.kind == "lr"]
    assert min(factors) < 1 < max(factors)
    assert (factors[0] > 1) == (ratio < 1e-4)
    assert len(factors) == len(set(factors))


def test_tries_no_more_rates_when_one_heals():
    trials = Scripted(BROKEN, {0.1: 0.5, 0.01: 0.9})

    assert cause(trials).remedy.args == {"factor": 0.1}
    assert trials.tried == ["0.1"]


@pytest.mark.parametrize(
    ("key", "suspects", "code"),
    [
        ("inputs", ["TT505"], "TT505"),
        ("initialisation", ["TT006"], "TT006"),
        ("initialisation", ["TT201"], "TT006"),
    ],
)
def test_what_was_suspected_is_believed_before_a_rate(key, suspects, code):
    found = cause(Scripted(FLAT, {key: 0.8, 0.1: 0.9}), suspects)

    assert found.code == code
    assert "took 80% off the loss" in found.what


def test_a_suspicion_that_heals_far_less_than_a_rate_is_not():
    assert cause(Scripted(FLAT, {"inputs": 0.3, 0.1: 0.9}), ["TT505"]).code == "TT411"


def test_without_a_suspicion_nothing_but_rates_are_tried():
    trials = Scripted(FLAT, {"inputs": 0.9, "initialisation": 0.9, "decay": 0.9, "optimizer": 0.9})

    assert cause(trials) is None
    assert {t.kind for t in trials.done} == {"lr", "batch"}


def test_unusual_settings_are_tried():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.999)

    found = cause(Scripted(DIVERGED, {"optimizer": 0.8}, optimizer=optimizer))

    assert (found.code, found.symptom) == ("TT431", Symptom.DIVERGENCE)


def test_strong_decay_is_tried():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], weight_decay=5.0)

    found = cause(Scripted(FLAT, {"decay": 0.8}, optimizer=optimizer))

    assert (found.code, found.remedy.action) == ("TT417", "set_weight_decay")


def test_frozen_parameters_are_tried():
    found = cause(Scripted(FLAT, {"frozen": 0.8, 0.1: 0.9}, frozen=True))

    assert (found.code, found.remedy.action) == ("TT433", "unfreeze")


def test_labels_are_doubted_when_one_batch_can_be_learned_and_nothing_heals():
    found = cause(Scripted(FLAT, {"batch": 0.9}))

    assert (found.code, found.site, found.symptom) == ("TT507", "batches", Symptom.NO_LEARNING)
    assert found.what == (
        "one batch alone was learned (90% off its loss), all batches together were not (0%)"
    )


@pytest.mark.parametrize("base", [FLAT, BROKEN])
def test_nothing_is_said_when_nothing_heals(base):
    trials = Scripted(base, {"batch": 0.1})

    assert cause(trials, ["TT505", "TT006"]) is None
    assert ("batch" in trials.tried) == (base is FLAT)


def test_a_trial_that_breaks_heals_nothing():
    assert cause(Scripted(BROKEN, {0.1: None, 0.01: None, 0.001: None})) is None


# Runs that have not failed, and may only be slow.


@pytest.mark.parametrize(("end", "code"), [(1.099, "TT412"), (0.6, None)])
def test_a_slow_run_beside_a_fast_one(end, code):
    base = outcome(end, shuffled=2.0)

    found = cause(Scripted(base, {10.0: 0.9}), failed=False)

    assert (found and found.code) == code
    if found:
        assert found.symptom is Symptom.SLOW_CONVERGENCE
        assert found.remedy.args == {"factor": 10.0}


@pytest.mark.parametrize("learned", [{}, {10.0: None, 100.0: None}])
def test_a_slow_run_that_nothing_speeds_up_is_left_alone(learned):
    assert cause(Scripted(outcome(1.099, shuffled=2.0), learned), failed=False) is None


def test_a_run_that_could_not_be_probed_is_left_alone():
    trials = Scripted(Outcome(None, None, None, [1.0]))

    assert cause(trials, failed=False) is None
    assert trials.done == []
