import pytest

from trimtab.diagnosis._outcome import Outcome, Probe
from trimtab.diagnosis._proof import failure, finding_of, frozen_finding
from trimtab.diagnosis._trials import Trial
from trimtab.findings import Fix, Symptom
from trimtab.rules import load_rules

load_rules()
NAN = float("nan")


def outcome(learned, *, knows=0.5, finite=True):
    end = 1 - learned if finite else NAN
    return Outcome(Probe(1.0, 1.0, True), Probe(end, end + knows, finite), 1.0, [1.0, end])


def trial(kind, learned=0.8, factor=1.0):
    return Trial(name="a change", kind=kind, factor=factor, outcome=outcome(learned))


NOTHING = outcome(0.0, knows=0.0)


@pytest.mark.parametrize(
    ("kind", "code", "what", "action"),
    [
        ("frozen", "TT433", "with most parameters frozen; with all of them trained", "unfreeze"),
        ("inputs", "TT505", "; on inputs of mean 0 and standard deviation 1", "normalise_inputs"),
        ("initialisation", "TT006", "; from fresh initial weights", "reinitialise"),
        ("decay", "TT417", "; without weight decay", "set_weight_decay"),
        ("dropout", "TT436", "; with less dropout", "set_dropout"),
        ("optimizer", "TT431", "; with the optimizer's usual", "usual_settings"),
    ],
)
def test_a_change_that_heals_names_the_cause(kind, code, what, action):
    finding = finding_of(trial(kind), NOTHING)

    assert (finding.code, finding.symptom) == (code, Symptom.NO_LEARNING)
    assert finding.what.startswith("the run learned nothing")
    assert what in finding.what
    assert finding.what.endswith("it took 80% off the loss")
    assert finding.remedy.action == action
    assert [e.value for e in finding.evidence] == [0.0, pytest.approx(0.8)]


def test_a_lower_rate():
    finding = finding_of(trial("lr", factor=0.01), outcome(0.0, finite=False))

    assert (finding.code, finding.symptom) == ("TT411", Symptom.NAN)
    assert finding.what == (
        "the run ended in NaN; with 0.01 times its learning rate it took 80% off the loss in 2 "
        "steps"
    )
    assert finding.cause == "the learning rate is about 100 times too high"
    assert finding.fix == "multiply the learning rate by 0.01, or warm it up"
    assert finding.remedy == Fix(action="scale_learning_rate", args={"factor": 0.01})
    assert finding.evidence[0].value == "none: it broke"


@pytest.mark.parametrize(
    ("base", "symptom"),
    [(NOTHING, Symptom.NO_LEARNING), (outcome(0.1), Symptom.SLOW_CONVERGENCE)],
)
def test_a_higher_rate(base, symptom):
    finding = finding_of(trial("lr", factor=10.0), base)

    assert (finding.code, finding.symptom) == ("TT412", symptom)
    assert finding.cause == "the learning rate is about 10 times too low"
    assert finding.fix == "multiply the learning rate by 10"


def test_what_is_nearly_all_frozen_needs_no_trial():
    finding = frozen_finding(0.97, NOTHING)

    assert finding.code == "TT433"
    assert finding.what == "the run learned nothing with 97% of its parameters frozen"


@pytest.mark.parametrize(
    ("base", "words", "symptom"),
    [
        (outcome(0.0, finite=False), "ended in NaN", Symptom.NAN),
        (outcome(-2.0), "ended above where it began", Symptom.DIVERGENCE),
        (NOTHING, "learned nothing", Symptom.NO_LEARNING),
        (outcome(0.2), "took only 20% off the loss", Symptom.OSCILLATING_LOSS),
    ],
)
def test_how_a_run_failed(base, words, symptom):
    assert failure(base) == (words, symptom)
