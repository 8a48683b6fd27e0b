import numpy as np
import pytest

from trimtab.diagnosis._job import Log
from trimtab.diagnosis._outcome import Outcome, Probe
from trimtab.diagnosis._verdicts import SAME_BATCHES, verdicts
from trimtab.findings import find_rule
from trimtab.rules import History, load_rules
from trimtab.signals import NonfiniteSource, StepRecord

load_rules()
NAN = float("nan")


def outcome(start=1.0, end=0.2, *, gap=1.0, losses=(1.0, 0.5)):
    return Outcome(Probe(start, start, True), Probe(end, end + gap, True), 1.0, losses)


def history(prints=(), largest=1.0):
    made = History()
    for step, value in enumerate(prints, 1):
        table = (["m"], {"activation.max": np.array([largest])})
        made.add(StepRecord(step, {"input.fingerprint": value}, {"modules": table}))
    return made


def codes(log=None, out=None, past=None, found=(), *, one_batch=False):
    made = verdicts(log or Log(), out or outcome(), past or history(), found, one_batch=one_batch)
    return [f.code for f in made]


def test_a_sound_run_is_passed_over():
    assert codes(past=history(range(20))) == []


def test_batches_that_are_all_the_same():
    same = history([4.0] * SAME_BATCHES)

    assert codes(past=same) == ["TT501"]
    assert codes(past=same, one_batch=True) == []
    assert codes(past=history([4.0] * (SAME_BATCHES - 1))) == []
    assert codes(past=history([4.0] * SAME_BATCHES + [5.0])) == []


def test_an_exception_of_the_loop():
    log = Log(losses=[1.0], error=RuntimeError("no\nway"), error_place=("a.py", 7))

    (finding,) = verdicts(log, outcome(), history(), (), one_batch=False)

    assert finding.what == "call 2 of the loop raised RuntimeError: no"
    assert (finding.code, finding.file, finding.line, finding.step) == ("TT430", "a.py", 7, 2)


def test_a_run_that_ends_above_its_start():
    assert codes(out=outcome(end=2.0, losses=[1.0, 1.2, 2.0])) == ["TT302"]
    (finding,) = verdicts(
        Log(), outcome(end=2.0, losses=[1.0, 1.2, 2.0]), history(), (), one_batch=False
    )
    assert finding.step == 3
    assert codes(out=outcome(end=2.0), found=[find_rule("TT302")().finding(what="x")]) == []


def test_a_run_that_learns_nothing():
    assert codes(out=outcome(end=0.99, gap=0.0)) == ["TT304"]
    assert (
        codes(out=outcome(end=0.99, gap=0.0), found=[find_rule("TT304")().finding(what="")]) == []
    )


def broken(kind="activation", losses=(1.0, 0.9, NAN), **fields):
    source = NonfiniteSource(kind=kind, site="2", **fields)
    return Log(losses=list(losses), nonfinite_call=len(losses), nonfinite=source)


def lost(losses=(1.0, 0.9, NAN)):
    return Outcome(Probe(1.0, 1.0, True), Probe(NAN, NAN, False), 1.0, losses)


def test_nan_out_of_the_blue_is_an_unsafe_operation():
    assert codes(broken(), lost(), history([1.0, 2.0])) == ["TT434", "TT303"]


def test_nan_in_a_first_step_is_none_unless_the_loss_makes_it():
    first = {"losses": (NAN,)}

    assert codes(broken(**first), lost((NAN,))) == ["TT303"]
    assert codes(broken("loss", **first), lost((NAN,))) == ["TT434", "TT303"]


@pytest.mark.parametrize(
    "log",
    [
        broken("input"),
        broken("parameter"),
        broken(inputs_finite=False),
        broken(losses=(1.0, 900.0, NAN)),  # exploded before
    ],
)
def test_nan_with_a_history_is_none(log):
    assert codes(log, lost(log.losses), history([1.0, 2.0])) == ["TT303"]


def test_nan_of_huge_activations_is_none():
    assert codes(broken(), lost(), history([1.0, 2.0], largest=1e9)) == ["TT303"]


def test_nan_of_bad_data_is_none():
    bad = find_rule("TT508")().finding(what="x")

    assert codes(broken(), lost(), history([1.0, 2.0]), found=[bad]) == ["TT303"]


def test_a_gradient_that_breaks_before_the_loss():
    log = Log(
        losses=[1.0, 0.9, NAN], nonfinite_call=3, bad_gradient="0.weight", bad_gradient_call=2
    )

    first, second = verdicts(log, lost(), history([1.0, 2.0]), (), one_batch=False)

    assert (first.code, first.site, first.step) == ("TT434", "0.weight", 2)
    assert first.what.startswith("the gradient of 0.weight was NaN or infinite in call 2")
    assert second.code == "TT303"
