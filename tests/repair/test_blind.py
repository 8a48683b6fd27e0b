import math

import pytest

from trimtab.diagnosis import Outcome
from trimtab.diagnosis._outcome import Probe
from trimtab.findings import Finding, Severity, Symptom
from trimtab.repair._blind import beyond_constant, is_ahead, is_fine


def outcome(end=0.2, *, start=2.0, constant=1.0, losses=(1.0, 0.5, 0.2)):
    return Outcome(Probe(start, start, finite=True), Probe(end, 1.0, finite=True), constant, losses)


def test_a_ruin_is_no_measure_of_what_was_learned():
    ruined = outcome(400.0, start=1e7)
    assert ruined.learned > 0.99
    assert beyond_constant(ruined) == pytest.approx(-399)
    assert beyond_constant(outcome()) == pytest.approx(0.8)
    assert beyond_constant(outcome(constant=None)) == pytest.approx(0.9)
    assert math.isnan(beyond_constant(Outcome(None, None, None, ())))


def test_fine_is_what_learned_and_shows_nothing():
    assert is_fine(outcome(), [], Probe(0.3, 1.0, finite=True))
    assert is_fine(outcome(), [], None)
    assert is_fine(Outcome(None, None, None, [1.0]), [], None)


@pytest.mark.parametrize(
    ("given", "evaluated"),
    [
        (outcome(0.98), 0.98),  # all but a constant
        (outcome(400.0, start=1e7), 400.0),
        (outcome(losses=(1.0, math.nan)), 0.2),
        (outcome(2.9), 2.9),
        (outcome(), 0.7),  # in training mode it knows much more
        (outcome(), math.nan),
    ],
)
def test_what_learned_nothing_broke_or_fails_in_evaluation_is_not(given, evaluated):
    assert not is_fine(given, [], Probe(evaluated, 1.0, finite=True))


def test_what_still_shows_a_fault_is_not_fine():
    found = Finding(
        code="TT401",
        name="update-too-large",
        severity=Severity.WARNING,
        symptom=Symptom.NO_LEARNING,
        what="steps are too large",
    )
    assert not is_fine(outcome(), [found], None)


def test_a_trial_is_compared_at_the_same_steps():
    other = [1.0, 0.9, 0.8, 0.7, 0.1, 0.1]
    assert is_ahead([1.0, 0.9, 0.7, 0.6], other, outcome())
    assert not is_ahead([1.0, 0.9, 0.8, 0.69], other, outcome())
    assert not is_ahead([1.0, 0.9, 0.8, math.nan], other, outcome())
