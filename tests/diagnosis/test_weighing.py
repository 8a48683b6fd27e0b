import pytest

from trimtab.diagnosis._job import Log
from trimtab.diagnosis._outcome import Outcome, Probe
from trimtab.diagnosis._weighing import has_failed, is_ailing, is_cause, merged, sorted_out
from trimtab.findings import Evidence, Severity, find_rule
from trimtab.rules import load_rules

load_rules()


def found(name, severity=None, **fields):
    rule = find_rule(name)()
    return rule.finding(what="x", severity=severity or rule.severity, **fields)


def outcome(learned, *, knows=0.5, losses=(1.0,)):
    start, end = Probe(1.0, 1.0, True), Probe(1 - learned, 1 - learned + knows, True)
    return Outcome(start, end, 1.0, losses)


def sort(findings, proven=None, *, failed=False, sound=None):
    wrong, advice = sorted_out(findings, proven, failed=failed, sound=sound)
    return [f.code for f in wrong], [f.code for f in advice]


SOFT = "inputs-not-normalised"


def test_what_harms_some_runs_only_is_advice_for_one_that_learns():
    assert sort([found(SOFT, Severity.WARNING)]) == ([], ["TT505"])


def test_it_counts_in_a_run_that_fails():
    assert sort([found(SOFT, Severity.WARNING)], failed=True) == (["TT505"], [])


def test_it_counts_where_its_effects_are_seen():
    findings = [found(SOFT, Severity.WARNING), found("dead-units", step=5)]

    assert sort(findings)[0] == ["TT505", "TT201"]


def test_another_cause_that_was_proven_lets_it_off():
    proven = found("learning-rate-too-high")

    assert sort([found(SOFT, Severity.WARNING)], proven, failed=True) == ([], ["TT505"])


def test_a_first_loss_far_too_high_is_known_to_be_wrong():
    evidence = (Evidence(name="first loss", value=30.0, normal="<= 5"),)

    assert sort([found("initial-loss", evidence=evidence)])[0] == ["TT007"]
    assert sort([found("initial-loss")])[0] == []


def test_looks_do_not_matter_to_a_run_that_has_learned_its_task():
    assert sort([found("update-too-large", Severity.WARNING)], sound=True) == ([], ["TT401"])
    assert sort([found("stale-parameters")], sound=True) == (["TT003"], [])


def test_advice_becomes_a_cause_where_nothing_else_is():
    small = found("batchnorm-batch-of-one", Severity.ADVICE)

    assert sort([small], failed=True) == (["TT014"], [])
    assert sort([small]) == ([], ["TT014"])


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("stale-parameters", True),
        ("gradients-not-cleared", True),
        ("clipped-to-nothing", True),  # soft, and believed
        ("unsuited-initialisation", False),
        ("dead-units", False),
        ("divergence", False),
    ],
)
def test_what_needs_no_trial(name, cause):
    assert is_cause(found(name, Severity.WARNING)) is cause
    assert not is_cause(found(name, Severity.ADVICE))


def test_failed_by_its_outcome():
    assert has_failed(outcome(0.0, knows=0.0), Log())
    assert has_failed(outcome(-2.0), Log())
    assert has_failed(outcome(0.5), Log(error=ValueError()))
    assert has_failed(outcome(0.5, losses=[1.0, float("nan")]), Log())
    assert not has_failed(outcome(0.5), Log())


def test_ailing_by_its_looks_unless_it_learns():
    ill = [found("dead-units", Severity.WARNING)]

    assert is_ailing(outcome(0.1), ill)
    assert not is_ailing(outcome(0.6), ill)
    assert not is_ailing(outcome(0.1), [found("dead-units", Severity.ADVICE)])
    assert not is_ailing(outcome(0.1), [])


def test_what_is_proven_comes_first_and_explains_the_rest():
    findings = [found("nonfinite-loss", step=9), found("dead-units", step=7)]

    (first,) = merged(findings, found("learning-rate-too-high"))

    assert (first.code, first.step) == ("TT411", 7)
    codes = {f.code for c in first.consequences for f in (c, *c.consequences)}
    assert codes == {"TT201", "TT303"}


def test_faults_that_it_does_not_explain_stay():
    proven = found("learning-rate-too-high")

    assert [f.code for f in merged([found("decay-on-norms")], proven)] == ["TT411", "TT004"]


@pytest.mark.parametrize(("sound", "heard"), [(False, True), (True, False), (None, False)])
def test_extremes_are_heard_by_a_run_that_is_less_than_sound(sound, heard):
    wrong, _ = sort([found("clipped-to-nothing", Severity.WARNING)], sound=sound)

    assert (wrong == ["TT432"]) is heard


def test_values_that_are_not_finite_are_never_shrugged_off():
    assert sort([found("nonfinite-gradient")], sound=True) == (["TT107"], [])
    assert sort([found("exploding-gradient", Severity.ERROR)], sound=True) == ([], ["TT102"])
